"""Documents from files and pipes: text, markdown, HTML and JSON lines, read one at a time in a fixed order."""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ltm.data.html_text import html_text
from ltm.data.pipes import is_stream, read_stream, stream_name
from ltm.errors import LtmError

_PAGES = (".html", ".htm")
SUFFIXES = (".txt", ".md", *_PAGES, ".jsonl", ".jsonl.gz")
NAME_FIELDS = ("id", "title", "name")

_MADE = {
    "a memory": ("manifest.json", ".lock"),
    "a saved method": ("ltm_method.json",),
    "a training run": ("train_config.json",),
}
"""What ltm writes into directories that hold .txt or .jsonl files, and files that tell it (a memory's is a common name,
and is looked into). Named here again: their own modules bring torch with them."""
_KNOWN = ".txt, .md, .html, .jsonl or .jsonl.gz"


class DocumentError(LtmError):
    """A file or a line of it that cannot be read as a document."""


@dataclass(frozen=True)
class Document:
    """One text with a name.

    name: from the field `id`, `title` or `name` of its JSON line; for a file, its path inside the folder
    asked for, with bytes that are no UTF-8 as escapes; for a pipe "stdin" or "pipe".
    text: the whole text, str; line ends are "\\n".
    source: where it came from, "path" or "path:line".

    >>> from ltm.data.documents import iter_documents
    >>> for document in iter_documents(["notes", "books.jsonl.gz"]):  # doctest: +SKIP
    ...     print(document.name, len(document.text))
    """

    name: str
    text: str
    source: str


@dataclass(frozen=True)
class Source:
    """Where documents come from: a file, or what came through a pipe (`data`), which cannot be read twice.

    name: of its document; its ending says what kind of text it is, none means plain text.
    """

    path: Path
    name: str
    data: bytes | None = None

    @property
    def origin(self) -> str:
        """What messages call it."""
        return str(self.path) if self.data is None else stream_name(self.path)

    def lines(self) -> Any:
        """The same as an open file of bytes, unpacked."""
        packed = self.path.open("rb") if self.data is None else io.BytesIO(self.data)
        return gzip.open(packed) if self.name.lower().endswith(".gz") else packed


def iter_documents(paths: str | Path | Iterable[str | Path]) -> Iterator[Document]:
    """The documents of files and folders, lazily: one document is in memory at a time.

    paths: a file or folder, or several; a folder is searched to any depth, in sorted order, for files that
    end in .txt, .md, .html, .htm, .jsonl or .jsonl.gz (hidden ones and other kinds are passed over, and so are
    memories, saved methods and training runs: a memory's copies of texts are none of its own sources); "-" is standard
    input, and other pipes are read at the call. The order of `paths` is kept. A text or markdown file is one document;
    of an HTML file its visible text is; each JSON line is one, from its field `text` (empty ones are skipped).
    Raises DocumentError: at the call for a missing path, an unknown kind of file, an empty file or a folder
    that holds nothing to read; on the way for binary junk and broken lines, with file and line number.

    >>> names = [document.name for document in iter_documents("notes")]  # doctest: +SKIP
    """
    return documents_of(find_sources(paths))


def documents_of(sources: Iterable[Source]) -> Iterator[Document]:
    """The documents of sources, as often as they are asked for."""
    return (document for source in sources for document in _read(source))


def find_sources(paths: str | Path | Iterable[str | Path], piped_name: str | None = None) -> list[Source]:
    """What can be read below `paths`; raises as `iter_documents`. piped_name: what the one text that is piped in is
    called; LtmError where there is none, or several."""
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not given:
        raise DocumentError("no data given; name at least one file or folder")
    streams = [Path(path) for path in given if is_stream(Path(path))]
    if piped_name is not None and len(streams) != 1:
        raise DocumentError(f"a name is for one text that is piped in; {len(streams)} are given")
    names = [stream_name(path) for path in streams]
    if len(set(names)) < len(names):
        raise DocumentError(f"{max(names, key=names.count)} can be read once only; give it once")
    sources = [source for path in given for source in _expand(Path(path))]
    named = [replace(s, name=piped_name) if piped_name and s.data is not None else s for s in _told_apart(sources)]
    for source in named:
        if not (source.path.stat().st_size if source.data is None else source.data):
            raise DocumentError(f"{source.origin} is empty; give it some text or leave it out")
    return named


def read_text(path: Path) -> str:
    """A whole text, from a file or a pipe. Raises DocumentError where it is none."""
    where = stream_name(path) if is_stream(path) else str(path)
    try:
        return _decode(read_stream(path) if is_stream(path) else path.read_bytes(), where)
    except OSError as error:
        raise DocumentError(f"{where} cannot be read ({error.strerror or error}); check its permissions") from error


def _told_apart(sources: list[Source]) -> list[Source]:
    """Several pipes have numbers, in their order."""
    number, apart = 0, []
    for source in sources:
        number += source.data is not None and source.name == "pipe"
        apart.append(replace(source, name=f"pipe-{number}") if source.name == "pipe" and number > 1 else source)
    return apart


def _expand(path: Path) -> list[Source]:
    """A file as itself, a folder as its readable files in sorted order, a pipe with what comes out of it."""
    if is_stream(path):
        name = "stdin" if stream_name(path) == "standard input" else "pipe"
        return [Source(path, name, read_stream(path))]
    path = path.expanduser()
    if path.is_dir():
        made = _made_by_ltm(path)
        if made is not None:
            raise DocumentError(f"{path} is {made}, not a folder of texts; a memory's come out with `ltm bank export`")
        found = [file for file in path.rglob("*") if _is_readable(file, path)]
        folders = {folder for file in found for folder in file.parents if path in folder.parents}
        passed_over = {folder for folder in folders if _made_by_ltm(folder) is not None}
        inside = sorted(file for file in found if passed_over.isdisjoint(file.parents))
        if not inside:
            raise DocumentError(f"{path} holds nothing to read; put files there that end in {_KNOWN}")
        return [Source(found, _readable(found.relative_to(path).as_posix())) for found in inside]
    if not path.exists():
        raise DocumentError(f"{path} does not exist; check the spelling or the working directory")
    if not path.name.lower().endswith(SUFFIXES) or not path.is_file():
        raise DocumentError(f"{path} is not a kind of file that can be read; use one that ends in {_KNOWN}")
    return [Source(path, _readable(path.name))]


def _readable(name: str) -> str:
    """A file's name as text: bytes that are no UTF-8 become escapes, since a bank can keep no others."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _made_by_ltm(folder: Path) -> str | None:
    """What ltm keeps in a folder, if it is its own."""
    for what, names in _MADE.items():
        if any((folder / name).is_file() for name in names) and (what != "a memory" or _is_memory(folder)):
            return what
    return None


def _is_memory(folder: Path) -> bool:
    """Whether a folder with a manifest or a lock is a memory, or what a killed read left of one."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return any((folder / name).is_dir() for name in ("shards", "documents"))
    try:
        with open(manifest, "rb") as content:
            return b'"format": "ltm-bank"' in content.read(256)
    except OSError:
        return False


def _is_readable(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return not hidden and path.name.lower().endswith(SUFFIXES) and path.is_file()


def _read(source: Source) -> Iterator[Document]:
    try:
        if source.name.lower().endswith((".jsonl", ".jsonl.gz")):
            yield from _read_lines(source)
            return
        with source.lines() as file:
            text = _decode(file.read(), source.origin)
        if source.name.lower().endswith(_PAGES):
            text = html_text(text)
        if not text.strip():
            raise DocumentError(f"{source.origin} holds only white space; give it some text or leave it out")
        yield Document(source.name, text, source.origin)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DocumentError(f"{source.origin} is not a whole gzip file ({error}); download or pack it again") from error
    except OSError as error:
        raise DocumentError(
            f"{source.origin} cannot be read ({error.strerror or error}); check its permissions"
        ) from error


def _read_lines(source: Source) -> Iterator[Document]:
    found = False
    with source.lines() as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{source.origin}:{number}"
            record = _parse_line(_decode(line, where), where)
            if record is not None and record["text"].strip():
                found = True
                yield Document(_name_of(record, where) or f"{source.name}:{number}", record["text"], where)
    if not found:
        raise DocumentError(f"{source.origin} holds no text; give at least one line a field 'text' that is not empty")


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
    record["text"] = check_text(record["text"], where)
    return record


def _decode(data: bytes, where: str) -> str:
    if b"\0" in data:
        raise DocumentError(f"{where} holds NUL bytes, so it is not plain text; save it as UTF-8 text")
    try:
        return check_text(data.decode("utf-8-sig"), where)
    except UnicodeDecodeError as error:
        raise DocumentError(f"{where} is not UTF-8 (byte {error.start}); save it as UTF-8 text") from error


def check_text(text: str, where: str) -> str:
    """Text that every tokenizer takes, with "\\n" line ends; JSON escapes and arguments smuggle in what bytes cannot.

    Raises DocumentError that says where: NUL characters, half a surrogate pair, bytes that are no UTF-8.
    """
    if "\0" in text:
        raise DocumentError(f"{where} holds NUL characters, so it is not plain text; remove them")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        byte = "\udc80" <= text[error.start] <= "\udcff"  # how Python keeps one
        what = "a byte that is not UTF-8" if byte else "half a surrogate pair"
        raise DocumentError(f"{where} holds {what} (character {error.start}); mend it") from error
    return text.replace("\r\n", "\n")


def _name_of(record: dict[str, Any], where: str) -> str | None:
    for field in NAME_FIELDS:
        value = record.get(field)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
            return check_text(str(value), f"{where}, field '{field}',")
    return None
