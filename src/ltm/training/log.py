"""The log of a run: one JSON object a line, each with its "event": train, eval, skip or stop."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ltm.errors import LtmError

LOG_FILE = "log.jsonl"


class TrainLog:
    """Appends records to out_dir/log.jsonl; every line is on disk before the next step begins.

    after_step: when resuming, the step to go on from: records of later steps, written by a run that was
    killed between checkpoints, are dropped. None starts an empty log.

    >>> log = TrainLog(Path("out"))  # doctest: +SKIP
    >>> log.write("train", step=1, loss=3.2)  # doctest: +SKIP
    """

    def __init__(self, out_dir: Path, after_step: int | None = None):
        self.path = out_dir / LOG_FILE
        kept = []
        if after_step is not None and self.path.exists():
            kept = [record for record in read_log(self.path) if record["step"] <= after_step]
        scratch = self.path.with_suffix(".partial")
        scratch.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        os.replace(scratch, self.path)

    def write(self, event: str, **values: Any) -> None:
        """Append a record; floats are rounded to six digits that count."""
        record = {"event": event, **{name: _round(value) for name, value in values.items()}}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The records of a log; a last line that a killed process left unfinished is passed over.

    Raises LtmError where there is no log, or a line in its middle is broken.
    """
    path = Path(path)
    if not path.is_file():
        raise LtmError(f"{path} does not exist; give the {LOG_FILE} of a training run")
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise LtmError(f"{path}:{number} is not JSON ({error}); mend or remove the line") from error
    return records


def _round(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become None."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if value - value == 0 else None
