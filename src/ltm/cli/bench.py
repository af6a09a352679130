"""ltm bench: tasks x methods to result files, and these to a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ltm.cli.declared import AsJson, Device, new_app
from ltm.cli.options import config_options
from ltm.configs import DEFAULT_BACKBONE
from ltm.console import Interrupted, ask_patience, next_step, notice, print_json, print_table, shown
from ltm.errors import LtmError
from ltm.methods import METHODS
from ltm.tasks.registry import TASKS

if TYPE_CHECKING:
    from ltm.bench import Budget, Experiment, MethodSpec, Result, TaskSpec

FAILED = 1
"""Exit code where a cell could not be measured."""

app = new_app(
    help="Measure methods on tasks; make a page of the results.", epilog="Try: ltm bench list", no_args_is_help=True
)


@app.command(epilog="Try: ltm bench run --methods window,longmem --data data/ --out results/")
def run(
    experiment: Annotated[
        str | None,
        typer.Argument(
            metavar="[EXPERIMENT]",
            help="A file .toml that says all this, or its name in benchmarks/experiments; options given besides win.",
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", help="Folder of result files: made, added to, or gone on with.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Names that `ltm bench list` lists, with commas; default: long_text.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="With commas: NAME, NAME:key=value,..., NAME@TRAINED_WEIGHTS; any may end in: as LABEL; default: "
            "window,full,longmem."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="TASK.KEY=VALUE", help="An option of a task; repeatable.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Folder of data sets; default: public ones by name.")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help=f"A built-in name, hub id, directory or .gguf file; default: {DEFAULT_BACKBONE}."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16, float16; default: auto.")] = None,
    window: Annotated[
        int | None, typer.Option(help="Local window in tokens, the same for every method that has one; default: 1024.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Tokens that leave a full window; default: all for long_text, else half of it.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Memory of each method: tokens (65536) or bytes (64MB); default: its own.")
    ] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="For tasks with a seed; repeatable.")] = None,
    device: Device = None,
    restart: Annotated[bool, typer.Option("--restart", help="Remove earlier results of the same cells.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure methods on tasks.

    Each task and method has its result file in --out. A run that was stopped goes on where it was with the same
    command. Exit code 1: a method could not be measured, the others were.
    """
    from ltm.bench import Experiment, read_experiment

    plan = (Experiment() if experiment is None else read_experiment(experiment)).given(
        out=out,
        tasks=tasks and tasks.split(","),
        methods=methods and methods.split(","),
        data=data,
        backbone=backbone,
        dtype=dtype,
        window=window,
        stride=stride,
        budget=budget,
        seeds=seeds,
    )
    results = _run(plan, settings or (), device, restart)
    _print_results(results, as_json)
    notice(f"results are in {plan.out}", style="dim")
    next_step("ltm", "bench", "report", plan.out, "--out", "page.md")
    raise typer.Exit(FAILED if any(result.failed for result in results) else 0)


def _run(experiment: Experiment, settings: Sequence[str], device: str | None, restart: bool) -> list[Result]:
    """Check everything that can be checked at once, load the backbone, run."""
    from ltm.bench import Plan, parse_budget, run_plan
    from ltm.bench.progress import BenchBar
    from ltm.tasks.data import DataSource

    if experiment.out is None:
        raise LtmError("no folder for the result files; give one: --out results/")
    task_specs, method_specs = experiment.task_specs(settings), experiment.method_specs()
    limit = None if experiment.budget is None else parse_budget(experiment.budget)
    source = DataSource(experiment.data)
    _check(task_specs, method_specs, limit, experiment.seeds)
    from ltm.backbone import load_backbone

    ask_patience(f"loading {experiment.backbone}")
    loaded = load_backbone(experiment.backbone, dtype=experiment.dtype, device=device)
    seeds = tuple(dict.fromkeys(experiment.seeds)) or (0,)
    plan = Plan(task_specs, method_specs, loaded, source, experiment.window, experiment.stride, limit, seeds)
    ask_patience("preparing tasks and methods")
    with BenchBar() as bar:
        try:
            return run_plan(plan, experiment.out, restart=restart, watch=bar)
        except KeyboardInterrupt:
            raise Interrupted(f"{experiment.out} keeps what was done; the same command goes on from there") from None


def _check(
    tasks: Sequence[TaskSpec], methods: Sequence[MethodSpec], budget: Budget | None, seeds: Sequence[int]
) -> None:
    """Refuse options that would have no effect."""
    from ltm.bench.plan import has_seed

    if budget is not None and not any(budget.options(METHODS[method.name].config_class) for method in methods):
        raise LtmError(f"--budget {budget}: none of the methods has a memory that it limits; leave it out")
    if seeds and not any(map(has_seed, tasks)):
        raise LtmError("--seed: none of the tasks has a seed that is not set; leave it out")


@app.command(epilog="Try: ltm bench report results/ --out page.md")
def report(
    folder: Annotated[Path, typer.Argument(metavar="RESULTS", help="What `ltm bench run --out` wrote.")],
    out: Annotated[Path, typer.Option("--out", help="The page, .md; the same as .html is written beside it.")],
    title: Annotated[str, typer.Option(help="The page's title.")] = "Benchmark results",
    as_json: AsJson = False,
) -> None:
    """Make a page of tables and plots of a folder of results."""
    from ltm.bench import write_report

    markdown, page = write_report(folder, out, title)
    if as_json:
        print_json({"markdown": str(markdown), "html": str(page)})
        return
    print(shown(str(markdown)))
    print(shown(str(page)))


@app.command("list", epilog="Try: ltm bench list --json")
def list_tasks(as_json: AsJson = False) -> None:
    """The tasks there are: source and options; in a checkout, the experiments that have names."""
    described = [_describe(name) for name in TASKS]
    if as_json:
        print_json(described)
        return
    print_table(None, ("task", "source"), [(task["name"], task["source"]) for task in described], left=2)
    for task in described:
        rows = [(f"{task['name']}.{key}", value["default"], value["help"]) for key, value in task["options"].items()]
        print_table(task["name"], ("--set", "default", "meaning"), rows, left=3)
    from ltm.bench.experiments import named_experiments

    if known := named_experiments():
        print_table("experiments: ltm bench run NAME", ("name", "about"), sorted(known.items()), left=2)


def _describe(name: str) -> dict[str, Any]:
    options = config_options(TASKS[name].config_class)
    return {
        "name": name,
        "source": TASKS[name].source,
        "options": {option.name: {"default": option.default, "help": option.help} for option in options},
    }


def _print_results(results: Sequence[Result], as_json: bool) -> None:
    """The headline of each task with methods as columns, or everything as JSON."""
    from ltm.bench.tables import headline, sections, tables

    if as_json:
        print_json([{"file": str(result.path), **result.facts} for result in results])
        return
    for section in sections(results):
        for title, table in tables(headline(section.lines()), section.labels):
            rows = [[Text(cell.text, style="bold" if cell.bold else "") for cell in row] for row in table.rows]
            print_table(f"{section.task}: {title}", table.columns, rows, left=table.left)
