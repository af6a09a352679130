"""Documents from files: text, markdown and JSON lines, read one at a time in a fixed order."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import LtmError

SUFFIXES = (".txt", ".md", ".jsonl", ".jsonl.gz")
NAME_FIELDS = ("id", "title", "name")

_KNOWN = ".txt, .md, .jsonl or .jsonl.gz"


class DocumentError(LtmError):
    """A file or a line of it that cannot be read as a document."""


@dataclass(frozen=True)
class Document:
    """One text with a name.

    name: from the field `id`, `title` or `name` of its JSON line; for a file, its path inside the folder
    asked for.
    text: the whole text, str; line ends are "\\n".
    source: where it came from, "path" or "path:line".

    >>> from ltm.documents import iter_documents
    >>> for document in iter_documents(["notes", "books.jsonl.gz"]):  # doctest: +SKIP
    ...     print(document.name, len(document.text))
    """

    name: str
    text: str
    source: str


def iter_documents(paths: str | Path | Iterable[str | Path]) -> Iterator[Document]:
    """The documents of files and folders, lazily: one document is in memory at a time.

    paths: a file or folder, or several; a folder is searched to any depth, in sorted order, for files that
    end in .txt, .md, .jsonl or .jsonl.gz (hidden ones and other kinds are passed over). The order of `paths`
    is kept. A text or markdown file is one document; each JSON line is one, from its field `text` (empty ones
    are skipped).
    Raises DocumentError: at the call for a missing path, an unknown kind of file, an empty file or a folder
    that holds nothing to read; on the way for binary junk and broken lines, with file and line number.

    >>> names = [document.name for document in iter_documents("notes")]  # doctest: +SKIP
    """
    files = find_files(paths)
    return (document for path, name in files for document in _read_file(path, name))


def find_files(paths: str | Path | Iterable[str | Path]) -> list[tuple[Path, str]]:
    """Readable files below `paths`, each with its name as a document; raises as `iter_documents`."""
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not given:
        raise DocumentError("no data given; name at least one file or folder")
    files = [found for path in given for found in _expand(Path(path).expanduser())]
    for path, _ in files:
        if path.stat().st_size == 0:
            raise DocumentError(f"{path} is empty; give it some text or leave it out")
    return files


def _expand(path: Path) -> list[tuple[Path, str]]:
    """A file as itself, a folder as its readable files in sorted order."""
    if path.is_dir():
        inside = sorted(found for found in path.rglob("*") if _is_readable(found, path))
        if not inside:
            raise DocumentError(f"{path} holds nothing to read; put files there that end in {_KNOWN}")
        return [(found, found.relative_to(path).as_posix()) for found in inside]
    if not path.exists():
        raise DocumentError(f"{path} does not exist; check the spelling or the working directory")
    if not path.name.lower().endswith(SUFFIXES):
        raise DocumentError(f"{path} is not a kind of file that can be read; use one that ends in {_KNOWN}")
    return [(path, path.name)]


def _is_readable(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return not hidden and path.name.lower().endswith(SUFFIXES) and path.is_file()


def _read_file(path: Path, name: str) -> Iterator[Document]:
    try:
        if path.name.lower().endswith((".jsonl", ".jsonl.gz")):
            yield from _read_lines(path, name)
        else:
            text = _decode(path.read_bytes(), str(path))
            if not text.strip():
                raise DocumentError(f"{path} holds only white space; give it some text or leave it out")
            yield Document(name, text, str(path))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DocumentError(f"{path} is not a whole gzip file ({error}); download or pack it again") from error
    except OSError as error:
        raise DocumentError(f"{path} cannot be read ({error.strerror or error}); check its permissions") from error


def _read_lines(path: Path, name: str) -> Iterator[Document]:
    opener: Any = gzip.open if path.name.lower().endswith(".gz") else open
    found = False
    with opener(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}:{number}"
            record = _parse_line(_decode(line, where), where)
            if record is not None and record["text"].strip():
                found = True
                yield Document(_name_of(record) or f"{name}:{number}", record["text"], where)
    if not found:
        raise DocumentError(f"{path} holds no text; give at least one line a field 'text' that is not empty")


def _parse_line(line: str, where: str) -> dict[str, Any] | None:
    """The record of a JSON line; None for a blank line."""
    if not line.strip():
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{where} is not JSON ({error}); each line must be one JSON object") from error
    if not isinstance(record, dict):
        raise DocumentError(
            f'{where} is a JSON {type(record).__name__}; each line must be an object like {{"text": "…"}}'
        )
    if not isinstance(record.get("text"), str):
        came = f"fields {', '.join(record)}" if "text" not in record else f"a {type(record['text']).__name__} there"
        raise DocumentError(f"{where} has no string in field 'text' (it has {came or 'no fields'}); add it")
    record["text"] = _check(record["text"], where)
    return record


def _decode(data: bytes, where: str) -> str:
    if b"\0" in data:
        raise DocumentError(f"{where} holds NUL bytes, so it is not plain text; save it as UTF-8 text")
    try:
        return _check(data.decode("utf-8-sig"), where)
    except UnicodeDecodeError as error:
        raise DocumentError(f"{where} is not UTF-8 (byte {error.start}); save it as UTF-8 text") from error


def _check(text: str, where: str) -> str:
    """Text that every tokenizer takes, with "\\n" line ends; JSON escapes smuggle in what bytes cannot."""
    if "\0" in text:
        raise DocumentError(f"{where} holds NUL characters, so it is not plain text; remove them")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DocumentError(
            f"{where} holds half a surrogate pair (character {error.start}); mend its escapes"
        ) from error
    return text.replace("\r\n", "\n")


def _name_of(record: dict[str, Any]) -> str | None:
    for field in NAME_FIELDS:
        value = record.get(field)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
            return str(value)
    return None
