"""All of one user in one zip: what was said, with times, roles and versions, what is kept, and memories made of it.

    manifest.json            what this is: versions, and each file with its size and SHA-256
    events.jsonl             turns, one a line; forgotten ones as hashes
    kept.jsonl               conversations, responses and their items
    memories/NAME/...        memories made of the turns, as they lie in the user's directory: a cache

An archive may come from anywhere: nothing of it is used before all of it is known to be sound.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError

import ltm
from ltm.errors import LtmError
from ltm.serve.archive_rows import ItemRow, KeptRow, Rows, TurnRow
from ltm.serve.keys import stamp, utc_now

MANIFEST, EVENTS, KEPT, MEMORIES = "manifest.json", "events.jsonl", "kept.jsonl", "memories/"
FORMAT, VERSION = "ltm-user", 1
MOST_FILES, MOST_MANIFEST = 100_000, 50_000_000
PIECE = 2**20
DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError)
"""What a zip that cannot be read raises."""
_NAME = re.compile(r"memories/[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")
"""Of a memory's file: no path that leads elsewhere, no hidden file."""
_turn, _kept = TypeAdapter(TurnRow), TypeAdapter(KeptRow)


@dataclass(frozen=True)
class Archive:
    """An archive that was found to be sound. rows: of a user; memories: names of files of memories in it."""

    manifest: dict[str, Any]
    rows: Rows
    memories: Sequence[str]


def write_archive(file: IO[bytes], rows: Rows, memories: Sequence[Path] = ()) -> dict[str, Any]:
    """Write an archive; memories: directories of such. Returns its manifest."""
    files: dict[str, dict[str, Any]] = {}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, lines in ((EVENTS, rows.turns), (KEPT, rows.kept)):
            files[name] = _write(archive, name, (f"{row.model_dump_json()}\n".encode() for row in lines))
        for memory in memories:
            for path in _files(memory):
                name = f"{MEMORIES}{memory.name}/{path.relative_to(memory).as_posix()}"
                files[name] = _write(archive, name, _pieces(path))
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "ltm": ltm.__version__,
            "created": stamp(utc_now()),
            "turns": sum(not row.forgotten for row in rows.turns),
            "kept": len(rows.kept),
            "memories": {memory.name: _identity(memory) for memory in memories},
            "files": files,
        }
        archive.writestr(MANIFEST, json.dumps(manifest, indent=1))
    return manifest


def read_archive(file: IO[bytes], most: int) -> Archive:
    """An archive, after every byte of it was looked at. most: bytes that it may unpack to. Raises LtmError for what is
    none, is damaged, too large, of a newer version, or would lie elsewhere."""
    try:
        with zipfile.ZipFile(file) as archive:
            manifest = _manifest(archive, most)
            names = [name for name in manifest["files"] if name not in (EVENTS, KEPT)]
            turns = _rows(archive, manifest, EVENTS, _turn)
            kept = _rows(archive, manifest, KEPT, _kept)
            for name in names:
                for _ in unpacked(archive, manifest, name):
                    pass
    except LtmError:
        raise
    except DAMAGED as error:
        raise LtmError(f"this is no archive of a user, or damaged ({error}); nothing was taken in") from None
    return Archive(manifest, Rows(turns, kept), names)


def unpacked(archive: zipfile.ZipFile, manifest: dict[str, Any], name: str) -> Iterator[bytes]:
    """A file in pieces. Raises LtmError, at its end, where it is not the one that the manifest names."""
    known, digest, size = manifest["files"][name], hashlib.sha256(), 0
    with archive.open(name) as packed:
        while piece := packed.read(PIECE):
            size += len(piece)
            if size > known["bytes"]:
                break
            digest.update(piece)
            yield piece
    if (size, digest.hexdigest()) != (known["bytes"], known["sha256"]):
        raise LtmError(f"{name[:80]} in the archive is damaged; nothing was taken in")


def _manifest(archive: zipfile.ZipFile, most: int) -> dict[str, Any]:
    """The manifest, once the list of files is known to be the one that it names."""
    listed = archive.infolist()
    names = [info.filename for info in listed]
    if MANIFEST not in names:
        raise LtmError("this zip is no archive of a user: it has no manifest.json; nothing was taken in")
    if len(listed) > MOST_FILES or archive.getinfo(MANIFEST).file_size > MOST_MANIFEST:
        raise LtmError(f"the archive has more than {MOST_FILES:,} files; nothing was taken in")
    with archive.open(MANIFEST) as packed:
        manifest = json.loads(packed.read(MOST_MANIFEST + 1))
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise LtmError("this zip is no archive of a user of ltm; nothing was taken in")
    version = manifest.get("version")
    if version != VERSION:
        maker = str(manifest.get("ltm"))[:20]
        raise LtmError(
            f"the archive is of version {str(version)[:20]}, written by ltm {maker}; this ltm reads version {VERSION}: "
            "take one that is as new"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or not {EVENTS, KEPT} <= set(files) or not all(map(_is_known, files.values())):
        raise LtmError("the archive's manifest names no files; nothing was taken in")
    if len(names) != len(set(names)) or set(names) != {MANIFEST, *files}:
        raise LtmError("the archive holds other files than its manifest names; nothing was taken in")
    for name in set(files) - {EVENTS, KEPT}:
        if not _NAME.fullmatch(name):
            raise LtmError(f"the archive holds a file {name[:80]!r}, which would lie elsewhere; nothing was taken in")
    if sum(one["bytes"] for one in files.values()) > most:
        raise LtmError(f"the archive would unpack to more than {most:,} bytes; nothing was taken in")
    return manifest


def _is_known(file: Any) -> bool:
    known = isinstance(file, dict) and set(file) == {"bytes", "sha256"} and isinstance(file["sha256"], str)
    return known and type(file["bytes"]) is int and file["bytes"] >= 0


def _rows(archive: zipfile.ZipFile, manifest: dict[str, Any], name: str, kind: TypeAdapter) -> list[Any]:
    data = b"".join(unpacked(archive, manifest, name))
    rows = []
    for number, line in enumerate(data.splitlines(), 1):
        where = f"{name} line {number}"
        try:
            row = kind.validate_json(line)
        except ValidationError as error:
            what = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, what["loc"]))
            raise LtmError(f"{where}: {place}: {what['msg']}; nothing was taken in") from None
        if isinstance(row, (TurnRow, ItemRow)):
            row.check(where)
        rows.append(row)
    return rows


def _write(archive: zipfile.ZipFile, name: str, pieces: Iterable[bytes]) -> dict[str, Any]:
    """Add a file; its size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    with archive.open(name, "w", force_zip64=True) as packed:
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
            packed.write(piece)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _files(memory: Path) -> list[Path]:
    """Of a memory that nobody writes to; locks and emptied journals are nothing of it."""
    found = [path for path in sorted(memory.rglob("*")) if path.is_file() and path.name[0] != "."]
    return [path for path in found if not path.name.endswith("-journal") or path.stat().st_size]


def _identity(memory: Path) -> dict[str, Any]:
    """What a memory says about the model that made it; nothing for a memory of text."""
    try:
        told = json.loads((memory / MANIFEST).read_text(encoding="utf-8"))
        return {name: told[name] for name in ("backbone", "fingerprint", "method", "library") if name in told}
    except (OSError, ValueError, TypeError):
        return {}
