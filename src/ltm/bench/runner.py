"""Runs the cells of a plan: units one after another, each written down when it is done, and a result file a cell.

A run that was stopped goes on with the units that are missing. What goes wrong in one cell in a way that a user can
mend is noted in its result, and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ltm import facts
from ltm.bench.costs import bytes_per_token, trained_hash
from ltm.bench.plan import HASH_DIGITS, Cell, Plan
from ltm.bench.records_file import Entry, RecordsFile, packed
from ltm.bench.results import Result, is_records, is_result, read_result, rows_to_json, write_result
from ltm.errors import LtmError
from ltm.methods import Reader, method_class
from ltm.methods.opening import open_method
from ltm.tasks.base import Record, Task, Unit
from ltm.tasks.registry import task_class
from ltm.text.session import Session
from ltm.text.text_session import TextSession

OUT_OF_MEMORY = "not enough memory; use a smaller budget, window or batch"


class Watch:
    """Is told how a run goes; does nothing with it."""

    def begin(self, work: Sequence[Work]) -> None:
        """All cells are known, with what of them is done already."""

    def start(self, cell: Work) -> None:
        """A cell is next."""

    def unit(self, cell: Work, entry: Entry) -> None:
        """A unit is done."""

    def end(self, cell: Work, result: Result) -> None:
        """A cell is done, or has failed."""


@dataclass(eq=False)
class Work:
    """A cell with its units. error: why it cannot be run; records_file: None then."""

    cell: Cell
    task: Task | None = None
    units: Sequence[Unit] = ()
    about_method: dict[str, Any] = field(default_factory=dict)
    bytes_per_token: float | None = None
    records_file: RecordsFile | None = None
    error: str | None = None

    @property
    def missing(self) -> list[Unit]:
        """Units that are not done yet."""
        done = {} if self.records_file is None else self.records_file.entries
        return [] if self.error else [unit for unit in self.units if unit.key not in done]


def run_plan(plan: Plan, out: str | Path, *, restart: bool = False, watch: Watch | None = None) -> list[Result]:
    """Run every cell of a plan; its result files are in `out`, and returned in the plan's order.

    restart: remove what earlier runs left of these cells; else they are gone on with. Raises LtmError (of the kind
    DifferentSetupError) before anything is run where records of another configuration are in the way.

    >>> run_plan(Plan(parse_tasks("long_text"), parse_methods("window"), backbone, data), "results")  # doctest: +SKIP
    """
    folder, watch = Path(out), watch or Watch()
    cells = plan.cells()
    if restart:
        _remove(cells, folder)
    work = _prepare(cells, folder)
    watch.begin(work)
    results = []
    for item in work:
        watch.start(item)
        results.append(_run_cell(item, folder, watch))
        watch.end(item, results[-1])
    return results


def _remove(cells: Sequence[Cell], folder: Path) -> None:
    for cell in cells:
        for path in (*_checked_paths(cell, folder), packed(cell.records_path(folder))):
            path.unlink(missing_ok=True)


def _checked_paths(cell: Cell, folder: Path) -> list[Path]:
    """A cell's two files; LtmError where one of them is there and is somebody else's."""
    own = {cell.records_path(folder): is_records, cell.result_path(folder): is_result}
    for path, is_own in own.items():
        if path.exists() and not is_own(path):
            raise LtmError(f"{path} was not written by ltm bench; move it away, or give another --out")
    return list(own)


def _prepare(cells: Sequence[Cell], folder: Path) -> list[Work]:
    """Each cell with its units, its method's facts and what is done already. Each task is made once."""
    made: dict[Any, tuple[Task, list[Unit]] | LtmError] = {}
    known: dict[Any, tuple[dict[str, Any], float | None] | LtmError] = {}
    work = []
    for cell in cells:
        if reason := _no_common_language(cell):
            work.append(Work(cell, error=reason))
            continue
        task_key, method_key = (cell.task.name, cell.seed), (cell.method.label, str(cell.options))
        if task_key not in made:
            made[task_key] = _make_units(cell)
        if method_key not in known:
            known[method_key] = _about_method(cell)
        work.append(_make_work(cell, made[task_key], known[method_key], folder))
    return work


def _no_common_language(cell: Cell) -> str | None:
    """Why a method cannot be measured; None where it can. A session puts text to a method of tokens, too."""
    asked, spoken = task_class(cell.task.name).speaks, method_class(cell.method.name).speaks
    if spoken == asked or spoken == "tokens":
        return None
    return f"not measured: task {cell.task.name} speaks {asked}, method {cell.method.name} speaks {spoken}"


def _make_units(cell: Cell) -> tuple[Task, list[Unit]] | LtmError:
    try:
        task = cell.make_task()
        units = list(task.units())
    except LtmError as error:
        return error
    keys = [unit.key for unit in units]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        return LtmError(f"task {task.name} has two units with the key {twice!r}; rename one of these in the data")
    return (task, units) if units else LtmError(f"task {task.name} found nothing to measure; check its options")


def _about_method(cell: Cell) -> tuple[dict[str, Any], float | None] | LtmError:
    """What the records of a method depend on, and its bytes a token; the method itself is let go of."""
    try:
        if _speaks_text(cell):
            return {"options": asdict(_open_text_session(cell).method.method_config), "weights": None}, None
        method = open_cell_method(cell)
        weights = trained_hash(method)
        about = {"options": asdict(method.method_config), "weights": weights and weights[:HASH_DIGITS]}
        return about, bytes_per_token(method)
    except LtmError as error:
        return error


def _make_work(
    cell: Cell,
    made: tuple[Task, list[Unit]] | LtmError,
    known: tuple[dict[str, Any], float | None] | LtmError,
    folder: Path,
) -> Work:
    error = next((value for value in (made, known) if isinstance(value, LtmError)), None)
    if isinstance(made, LtmError) or isinstance(known, LtmError):
        return Work(cell, error=str(error))
    (task, units), (about, per_token) = made, known
    _checked_paths(cell, folder)
    records_file = RecordsFile(cell.records_path(folder), cell.setup(units, about))
    return Work(cell, task, units, about, per_token, records_file)


def open_cell_method(cell: Cell) -> Reader:
    """The method of a cell, which reads tokens, ready to be measured."""
    return open_method(cell.method.name, cell.plan.backbone, cell.method.sidenet, **cell.options)


def _open_text_session(cell: Cell) -> TextSession:
    """A session on a cell's method of text, with the plan's backbone as what writes."""
    method = cell.method
    return TextSession.open(None, cell.plan.backbone, method.name, method.sidenet, **cell.options)


def _speaks_text(cell: Cell) -> bool:
    return method_class(cell.method.name).speaks == "text"


def _open_subject(cell: Cell) -> Reader | Session | TextSession:
    """What the units of a cell's task are run on: the method, or a session on it where the task speaks text."""
    if _speaks_text(cell):
        return _open_text_session(cell)
    method = open_cell_method(cell)
    return Session(method) if task_class(cell.task.name).speaks == "text" else method


def _run_cell(work: Work, folder: Path, watch: Watch) -> Result:
    """Run what is missing and write the result; a result that is there and whole is left as it is."""
    path = work.cell.result_path(folder)
    if path.exists() and not work.error and not work.missing and not (former := read_result(path)).failed:
        return former
    facts.reset_gpu_peak()
    error = work.error
    if error is None:
        try:
            _run_units(work, watch)
        except LtmError as mistake:
            error = str(mistake)
        except (MemoryError, torch.OutOfMemoryError):
            error = OUT_OF_MEMORY
    write_result(path, _result_facts(work, error))
    return read_result(path)


def _run_units(work: Work, watch: Watch) -> None:
    if not work.missing:
        return
    assert work.records_file is not None
    torch.manual_seed(work.cell.seed or 0)
    subject = _open_subject(work.cell)
    with work.records_file.writing():
        for unit in work.missing:
            started = time.perf_counter()
            records = unit.run(subject)
            seconds = time.perf_counter() - started
            entry = Entry(unit.key, unit.cost, _tokens_taken(unit, records), seconds, records)
            work.records_file.add(entry)
            watch.unit(work, entry)


def _tokens_taken(unit: Unit, records: Sequence[Record]) -> int:
    """What records say under "taken", since a method whose stream ends takes less; else the unit's cost."""
    told = [record["taken"] for record in records if "taken" in record]
    return sum(told) if told else unit.cost


def _in_order(units: Sequence[Unit], file: RecordsFile) -> list[Record]:
    """All records in the order of the units, whatever the order in which these were run."""
    return [record for unit in units for record in file.entries[unit.key].records]


def _result_facts(work: Work, error: str | None) -> dict[str, Any]:
    """The whole result, apart from the format's number."""
    cell, file = work.cell, work.records_file
    entries = [] if file is None else list(file.entries.values())
    tokens, seconds = sum(entry.tokens for entry in entries), sum(entry.seconds for entry in entries)
    rows = [] if error or work.task is None or file is None else work.task.summarise(_in_order(work.units, file))
    return {
        "status": "done" if error is None else "failed",
        "error": error,
        "command": facts.command(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "order": list(cell.order),
        "setup": cell.setup(work.units, work.about_method) if file is None else file.setup,
        "budget": {
            "asked": None if cell.plan.budget is None else str(cell.plan.budget),
            "given": {name: value for name, value in cell.options.items() if name in ("memory_size", "memory_bytes")},
        },
        "bytes_per_token": work.bytes_per_token,
        "machine": facts.machine(),
        "versions": facts.versions("torch", "transformers", "numpy"),
        "commit": facts.commit(),
        "seconds": round(seconds, 3),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
        "process_peak_bytes": facts.peak_bytes(),
        "gpu_peak_bytes": facts.gpu_peak_bytes(),
        "rows": rows_to_json(rows),
    }
