"""Whether a text is nowhere in a saved bank: not in what it holds, and not in the bytes of any file.

A text counts as found whatever its case, its white space (a line break, too) and its Unicode form. What cannot be
looked into counts as a place where it may be: nothing is called absent that was not looked for.
"""

from __future__ import annotations

import json
import mmap
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ltm.bank.contents import BankContents
from ltm.bank.disk.file_names import MANIFEST
from ltm.bank.disk.manifest_file import read_manifest
from ltm.bank.disk.plain_files import all_files, open_plain, read_plain
from ltm.bank.rows import MemoryRow
from ltm.data.tokens import literal_ids
from ltm.errors import BankError

PIECE_TOKENS = 8192
"""Tokens that are decoded at a time."""
MOST_BYTES = 2**28
"""Of a file that belongs to no bank: a larger one is not looked into, and told."""
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|([nrtbf\"\\/]))")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "b": " ", "f": " "}


def check_long_enough(text: str) -> None:
    """Raise BankError where a text is too short to be looked for."""
    if len(plain_form(text)) < 3:
        raise BankError(f"{text!r} is too short to look for; give three letters or more")


def places_of_text(bank: BankContents, path: Path, text: str, tokenizer: Any = None) -> list[str]:
    """Every place of a bank, just loaded from a path, where a text is found or may be, one line each; none: it is not
    there.

    By search: names and texts of documents and, with a tokenizer, the remembered tokens decoded. By bytes: every file
    of the directory, named by the manifest or not, as UTF-8, UTF-16 and JSON, and with a tokenizer its token ids as
    shards store them. In shards left by a killed save the tokens are decoded, too, and without a tokenizer such a shard
    is told as what may hold it. Keys and values lie beside their token ids, one for one, so that they are gone with
    them.
    """
    return [*_in_bank(bank, text, tokenizer), *_in_files(path, text, tokenizer)]


def plain_form(text: str) -> str:
    """A text without what may differ: case, Unicode form, and white space, of which each run is one space."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def token_runs(tokenizer: Any, text: str) -> list[list[int]]:
    """Token ids that any occurrence of the text has in a row, by what may stand before it.

    First and last tokens may join with their neighbours, so they are left out where enough others remain.
    """
    runs = []
    for before in ("", " ", "\n"):
        ids = literal_ids(tokenizer, before + text)
        run = ids[1:-1] if len(ids) >= 5 else ids
        if run and run not in runs:
            runs.append(run)
    return runs


def _in_bank(bank: BankContents, text: str, tokenizer: Any) -> Iterator[str]:
    wanted = plain_form(text)
    for info in bank.documents:
        for what, content in (("name", info.name), ("text", bank.document_text(info.id) or "")):
            if wanted in plain_form(content):
                yield f"the {what} of document {info.id} ({info.name})"
    for number, row in enumerate(bank.rows):
        if tokenizer is not None and _is_decoded(_ids_of(row), tokenizer, text):
            yield f"the remembered tokens of row {number}"


def _ids_of(row: MemoryRow) -> np.ndarray:
    counts, token_ids = row.ring.ordered("counts").cpu().numpy(), row.ring.ordered("token_ids").numpy()
    return token_ids[np.arange(token_ids.shape[1]) < counts[:, None]]


def _is_decoded(ids: np.ndarray, tokenizer: Any, text: str) -> bool:
    """Whether tokens say the text; looked at in pieces that overlap by as many tokens as it has characters, and more
    for white space."""
    wanted, overlap = plain_form(text), 2 * len(text) + 64
    starts = range(0, len(ids), PIECE_TOKENS)
    pieces = (ids[start : start + PIECE_TOKENS + overlap].tolist() for start in starts)
    return any(wanted in plain_form(tokenizer.decode(piece)) for piece in pieces)


def _in_files(path: Path, text: str, tokenizer: Any) -> Iterator[str]:
    manifest = read_manifest(path)
    shards = {shard.file for shard in manifest.shards}
    named = {MANIFEST, *shards, *(file.file for file in manifest.files)}
    named |= set() if manifest.journal is None else {manifest.journal.file}
    runs = [] if tokenizer is None else token_runs(tokenizer, text)
    for name, kind in all_files(path):
        file, left = path / name, "" if name in named else ", which belongs to no bank any more"
        if kind is not None:
            yield f"perhaps {file}: it is {kind} and was not looked into; remove it"
            continue
        content = None if name in shards else read_plain(path, name, MOST_BYTES + 1)
        if content is not None and len(content) > MOST_BYTES:
            yield f"perhaps {file}: it is too large to be looked into; remove it"
        elif _says(path, name, content, text):
            yield f"the bytes of {file}{left}"
        if _holds(path, name, {np.asarray(run, dtype="<i4").tobytes() for run in runs}):
            yield f"its token ids in {file}{left}"
        elif content is not None and name.endswith(".safetensors"):
            yield from _in_old_shard(path, name, content, text, tokenizer)


def _says(path: Path, name: str, content: bytes | None, text: str) -> bool:
    """Whether a file has a text in its bytes: as it stands, and, of all but shards that the bank names (content None),
    whose tokens were decoded, in any form."""
    plain = {text.encode("utf-8", "surrogatepass"), text.encode("utf-16-le", "surrogatepass")}
    plain |= {json.dumps(text)[1:-1].encode(), json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "replace")}
    wanted = plain_form(text)
    return _holds(path, name, plain) or any(wanted in plain_form(form) for form in _readings(content or b""))


def _in_old_shard(path: Path, name: str, content: bytes, text: str, tokenizer: Any) -> Iterator[str]:
    """What a killed save left: its tokens are in no bank."""
    ids = _token_ids(content)
    if ids is None or tokenizer is None:
        yield f"perhaps {path / name}: its tokens were not looked into; `ltm bank compact {path}` removes it"
    elif _is_decoded(ids, tokenizer, text):
        yield f"its token ids in {path / name}, which belongs to no bank any more"


def _readings(content: bytes) -> Iterator[str]:
    """Bytes as text, in each way that a text may have been written."""
    as_utf8 = content.decode("utf-8", "replace")
    yield as_utf8
    if "\\" in as_utf8:
        yield _unescaped(as_utf8)
    if b"\0" in content:
        for first in (0, 1):
            yield content[first:].decode("utf-16-le", "replace")


def _unescaped(text: str) -> str:
    """JSON's escapes as what they stand for; half of a pair of surrogates is joined with its other half."""
    found = _ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else _ESCAPED.get(match[2], match[2]), text)
    return found.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _token_ids(content: bytes) -> np.ndarray | None:
    """Those of a shard that may have been cut off: what is there of them, in order; None: they cannot be found."""
    try:
        size = int.from_bytes(content[:8], "little")
        begin, end = json.loads(content[8 : 8 + size])["token_ids"]["data_offsets"]
        found = content[8 + size + begin : 8 + size + end]
        return np.frombuffer(found[: len(found) // 4 * 4], "<i4") if len(content) >= 8 + size + end else None
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None


def _holds(path: Path, name: str, patterns: Iterable[bytes]) -> bool:
    with open_plain(path, name) as content:
        try:
            mapped = mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # it is empty
            return False
        with mapped:
            return any(mapped.find(pattern) >= 0 for pattern in patterns)
