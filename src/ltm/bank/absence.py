"""Whether a text is nowhere in a saved bank: not in what it holds, and not in the bytes of any file."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltm.bank.loading import load_bank
from ltm.bank.names import MANIFEST
from ltm.errors import BankError
from ltm.tokens import literal_ids

if TYPE_CHECKING:
    from ltm.bank.bank import Bank
    from ltm.bank.rows import Row

PIECE_TOKENS = 8192
"""Tokens that are decoded at a time."""


def find_text(make: type[Bank], path: str | Path, text: str, tokenizer: Any = None) -> list[str]:
    """Every place of a bank where a text is found, one line each; none: it is not there.

    By search: names and texts of documents and, with a tokenizer, the remembered tokens decoded, all without regard to
    case and white space. By bytes: in every file of the directory, named by the manifest or not, the text as UTF-8,
    UTF-16 and JSON, and with a tokenizer its token ids as the shards store them. Keys and values lie beside their
    token ids, one for one, so that they are gone with them. Raises BankError for a text too short to tell.
    """
    path = Path(path)
    if len(_plain(text)) < 3:
        raise BankError(f"{text!r} is too short to look for; give three letters or more")
    bank = load_bank(make, path, None, None, True, True)
    runs = token_runs(tokenizer, text) if tokenizer is not None else []
    return [*_in_bank(bank, text, tokenizer), *_in_files(path, text, runs)]


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


def _in_bank(bank: Bank, text: str, tokenizer: Any) -> Iterator[str]:
    wanted = _plain(text)
    for info in bank.documents:
        for what, content in (("name", info.name), ("text", bank.document_text(info.id) or "")):
            if wanted in _plain(content):
                yield f"the {what} of document {info.id} ({info.name})"
    for number, row in enumerate(bank.rows):
        if tokenizer is not None and any(wanted in _plain(part) for part in _decoded(row, tokenizer, len(text))):
            yield f"the remembered tokens of row {number}"


def _decoded(row: Row, tokenizer: Any, overlap: int) -> Iterator[str]:
    """The tokens of a row as text, in pieces that overlap by `overlap` tokens."""
    counts, token_ids = row.ring.ordered("counts").cpu().numpy(), row.ring.ordered("token_ids").numpy()
    ids = token_ids[np.arange(token_ids.shape[1]) < counts[:, None]]
    for start in range(0, len(ids), PIECE_TOKENS):
        yield tokenizer.decode(ids[start : start + PIECE_TOKENS + overlap].tolist())


def _in_files(path: Path, text: str, runs: Sequence[Sequence[int]]) -> Iterator[str]:
    named = {path / MANIFEST, *(path / file for file in _named(path))}
    plain = {text.encode("utf-8", "surrogatepass"), text.encode("utf-16-le", "surrogatepass")}
    plain |= {json.dumps(text)[1:-1].encode(), json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "replace")}
    ids = {np.asarray(run, dtype="<i4").tobytes() for run in runs}
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        left = "" if file in named else ", which belongs to no bank any more"
        if _holds(file, plain):
            yield f"the bytes of {file}{left}"
        if _holds(file, ids):
            yield f"its token ids in {file}{left}"


def _named(path: Path) -> list[str]:
    from ltm.bank.manifest import read_manifest

    return [file.file for file in read_manifest(path).files]


def _holds(file: Path, patterns: Iterable[bytes]) -> bool:
    with open(file, "rb") as content:
        if not file.stat().st_size:
            return False
        with mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return any(mapped.find(pattern) >= 0 for pattern in patterns)


def _plain(text: str) -> str:
    """Lower case, with white space as single spaces."""
    return " ".join(text.casefold().split())
