"""Taking an archive in: staged whole, then done; what a kill leaves is finished at the next start, or never was.

The stage is a directory within the user's. It is made under one name and given another once it is whole and on the
disk: from then on the import happens, however often it is begun.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import IO

from pydantic import TypeAdapter

from ltm.serve.archive import MEMORIES, Archive, unpacked
from ltm.serve.archive_rows import KeptRow, Rows, Taken, TurnRow, merge_kept, merge_turns
from ltm.serve.response_store import ResponseStore
from ltm.serve.turn_log import TurnLog

MAKING, READY, GONE = ".import-making", ".import-ready", ".gone-import"
OPTIONS, TURNS_FILE, KEPT_FILE = "options.json", "turns.jsonl", "kept.jsonl"
IMPORTED = ".imported"
"""In the directory of a memory that came with an archive and was not opened since."""
_kept: TypeAdapter = TypeAdapter(KeptRow)


def take_in(
    directory: Path,
    rows: Rows,
    log: TurnLog,
    *,
    restore: bool = False,
    file: IO[bytes] | None = None,
    archive: Archive | None = None,
) -> Taken:
    """Add rows to a user's directory; what is there already stays as it is. log: the user's, open.

    restore: also what is known to have been deleted. file, archive: whose memories are taken over, too, if the user has
    none and nothing was said yet. Raises OSError and LtmError where the disk refuses; then all of it happens at the
    next start, or nothing ever does.
    """
    finish(directory, log)
    making = directory / MAKING
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700)
    _write(making / TURNS_FILE, (row.model_dump_json() for row in rows.turns))
    _write(making / KEPT_FILE, (row.model_dump_json() for row in rows.kept))
    _write(making / OPTIONS, [json.dumps({"restore": restore})])
    if file is not None and archive is not None and not log.num_turns:
        _unpack(file, archive, making)
    _sync(making)
    os.replace(making, directory / READY)
    _sync(directory)
    return finish(directory, log)


def finish(directory: Path, log: TurnLog) -> Taken:
    """Do what is staged, if anything is."""
    ready, taken = directory / READY, Taken()
    shutil.rmtree(directory / GONE, ignore_errors=True)
    if not ready.exists():
        return taken
    options = json.loads((ready / OPTIONS).read_text(encoding="utf-8"))
    for memory in sorted((ready / MEMORIES).glob("*")):
        if not (directory / memory.name).exists():
            os.replace(memory, directory / memory.name)
    merge_turns(log, map(TurnRow.model_validate_json, _lines(ready / TURNS_FILE)), options["restore"], taken)
    kept = [_kept.validate_json(line) for line in _lines(ready / KEPT_FILE)]
    with closing(ResponseStore(directory, make=bool(kept))) as store:
        merge_kept(store, log, kept, taken)
    os.replace(ready, directory / GONE)
    shutil.rmtree(directory / GONE)
    return taken


def discard(directory: Path) -> None:
    """Give up what is staged."""
    if (directory / READY).exists():
        os.replace(directory / READY, directory / GONE)
    for left in (MAKING, GONE):
        shutil.rmtree(directory / left, ignore_errors=True)


def finish_all(users: Path) -> None:
    """Finish what a kill left of imports, and of deletions of users, in the folder of all users."""
    for left in (*users.glob(".gone-*"), *users.glob(f"*/{GONE}"), *users.glob(f"*/{MAKING}")):
        shutil.rmtree(left)
    for ready in users.glob(f"*/{READY}"):
        with closing(TurnLog(ready.parent)) as log:
            finish(ready.parent, log)


def _unpack(file: IO[bytes], archive: Archive, making: Path) -> None:
    with zipfile.ZipFile(file) as packed:
        for name in archive.memories:
            path = making / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as written:
                for piece in unpacked(packed, archive.manifest, name):
                    written.write(piece)
                written.flush()
                os.fsync(written.fileno())
    for memory in (making / MEMORIES).glob("*"):
        (memory / IMPORTED).touch()


def _write(path: Path, lines: Iterable[str]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(f"{line}\n")
        file.flush()
        os.fsync(file.fileno())


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def _sync(directory: Path) -> None:
    """Have the names in a directory on the disk."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
