"""Methods x tasks x budgets: result files, and pages of tables and plots made of them.

>>> from ltm.bench import Plan, parse_methods, parse_tasks, run_plan, write_report  # doctest: +SKIP
>>> plan = Plan(parse_tasks("long_text"), parse_methods("window,longmem"), backbone, data)  # doctest: +SKIP
>>> run_plan(plan, "results")  # doctest: +SKIP
>>> write_report("results", "page.md")  # doctest: +SKIP
"""

from __future__ import annotations

from ltm.bench.experiments import Experiment, read_experiment
from ltm.bench.plan import Plan
from ltm.bench.records_file import DifferentSetupError
from ltm.bench.report import write_report
from ltm.bench.results import Result, read_results
from ltm.bench.runner import Watch, run_plan
from ltm.bench.specs import Budget, MethodSpec, TaskSpec, parse_budget, parse_methods, parse_tasks

__all__ = [
    "Budget",
    "DifferentSetupError",
    "Experiment",
    "MethodSpec",
    "Plan",
    "Result",
    "TaskSpec",
    "Watch",
    "parse_budget",
    "parse_methods",
    "parse_tasks",
    "read_experiment",
    "read_results",
    "run_plan",
    "write_report",
]
