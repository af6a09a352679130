"""Result files: what a cell measured and everything it depends on, one JSON object each."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ltm.bench.records_file import Entry, read_entries
from ltm.configs import stride_of
from ltm.errors import LtmError
from ltm.outputs import begins_with
from ltm.tasks.base import Record, Row

FORMAT = 1
RECORDS_SUFFIX = ".records.jsonl"
UNEVEN = 64
"""Tokens that some windows may keep more than others: a few sinks are no matter."""


@dataclass(frozen=True, eq=False)
class Result:
    """A result file that was read; `facts` is the whole object. See `ltm.bench.runner` for what it holds."""

    path: Path
    facts: dict[str, Any]

    @property
    def task(self) -> str:
        return self.facts["setup"]["task"]["name"]

    @property
    def label(self) -> str:
        return self.facts["setup"]["method"]["label"]

    @property
    def seed(self) -> int | None:
        return self.facts["setup"]["seed"]

    @property
    def backbone(self) -> str:
        return self.facts["setup"]["backbone"]["name"]

    @property
    def kept_tokens(self) -> int | None:
        """Tokens that stay when the method's window is full; None for one without a window."""
        options = self.facts["setup"]["method"].get("options", {})
        window, stride = options.get("local_window"), options.get("stride")
        return None if window is None else window - stride_of(window, stride)

    @property
    def failed(self) -> bool:
        return self.facts["status"] != "done"

    @property
    def rows(self) -> list[Row]:
        return [Row(**row) for row in self.facts["rows"]]

    @cached_property
    def entries(self) -> list[Entry]:
        """The units behind the rows; none where their file is not beside the result."""
        return read_entries(records_path(self.path))

    @property
    def records(self) -> list[Record]:
        """The records of all units."""
        return [record for entry in self.entries for record in entry.records]


def records_path(result_path: Path) -> Path:
    """Where the records of a result are."""
    return result_path.with_name(result_path.name.removesuffix(".json") + RECORDS_SUFFIX)


def rows_to_json(rows: list[Row]) -> list[dict[str, Any]]:
    """Rows as plain values; JSON has neither NaN nor infinity, so these become None."""
    return [{name: _finite(value) for name, value in asdict(row).items()} for row in rows]


def write_result(path: Path, facts: dict[str, Any]) -> None:
    """Write a result beside its place and rename it, so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps({"format": FORMAT, **facts}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(scratch, path)


is_result = begins_with('{\n  "format": ')
"""Whether a file begins as results do, damaged or not: others are not written over."""


def is_records(path: Path) -> bool:
    """Whether a file begins as records do, or as a first line that was torn."""
    mark = b'{"setup": '
    with open(path, "rb") as file:
        return mark.startswith(file.read(len(mark)))


def read_result(path: Path) -> Result:
    """A result file; LtmError where it is none, or of a later version."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LtmError(f"{path} is damaged ({error}); remove it and run that part again") from error
    if not isinstance(facts, dict) or "format" not in facts or "setup" not in facts:
        raise LtmError(f"{path} is no result of ltm bench; keep other files out of the folder")
    if facts["format"] != FORMAT:
        raise LtmError(f"{path} has format {facts['format']}, this version reads {FORMAT}; use the ltm that wrote it")
    return Result(path, facts)


def read_results(folder: str | Path) -> list[Result]:
    """All result files of a folder, tasks and methods in the order they were asked for."""
    if not Path(folder).is_dir():
        raise LtmError(f"{folder} is no folder; give one that `ltm bench run --out` wrote")
    results = [read_result(path) for path in sorted(Path(folder).glob("*.json"))]
    if not results:
        raise LtmError(f"{folder} holds no results; make some: ltm bench run --tasks long_text --out {folder}")
    return sorted(results, key=lambda result: (result.facts["order"], result.facts["date"]))


def uneven_windows(results: Iterable[Result]) -> dict[str, int]:
    """Tokens that full windows keep, by label, where some keep so many more that no comparison follows; else {}."""
    kept = {result.label: least for result in results if (least := result.kept_tokens) is not None}
    return kept if kept and max(kept.values()) - min(kept.values()) > UNEVEN else {}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
