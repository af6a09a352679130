"""Reading a text into a session's memory: block by block, saved as it goes, and undone where it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltm.bank import DocumentInfo
from ltm.bank.disk.lock import WriteLock
from ltm.configs import DEFAULT_METHOD
from ltm.data.tokens import TokenBlock, token_blocks, token_ids
from ltm.errors import LtmError
from ltm.methods import Reader
from ltm.text.session_memory import SessionMemory

BLOCK_TOKENS = 4096
"""Tokens read between two reports of progress, rounded down to whole segments."""
SAVE_TOKENS = 8192
"""Tokens read between two saves: at most so many are lost when a read is killed."""


@dataclass(frozen=True)
class ReadProgress:
    """How far a read is: tokens read so far, characters done and in all, bytes of the whole bank."""

    document: str
    tokens: int
    chars: int
    total_chars: int
    bank_bytes: int


OnProgress = Callable[[ReadProgress], None]
Ranges = Sequence[tuple[int, int]]


def read_document(
    memory: SessionMemory,
    tokenizer: Any,
    text: str,
    name: str,
    directory: Path | None = None,
    progress: OnProgress | None = None,
    ranges: Ranges | None = None,
) -> DocumentInfo:
    """Take a text in as the document `name`, in a block of `memory.alone()`; arguments as `Session.read`.

    directory: where the bank is saved while it is read; None: nowhere.
    """
    bank = memory.begun_bank() if directory is not None or memory.method.keeps_bank else None
    known = _known(memory, name, text)
    if known is not None:
        return known
    _check_room(memory, tokenizer, text, name)
    with memory.undone_on_failure(), nullcontext() if directory is None else WriteLock(directory):
        info = _read(memory, tokenizer, text, name, directory, progress, ranges)
        if bank is not None and directory is not None:
            bank.save(directory)
        return info


def _known(memory: SessionMemory, name: str, text: str) -> DocumentInfo | None:
    """A whole document of this name and text; one that was cut off is removed."""
    for known in memory.registry.named(name):
        if not known.complete:
            memory.begun_bank().delete_document(known.id)
        elif known.text == text:
            return memory.info(known.id)
        else:
            raise LtmError(
                f"this memory holds another text called {name}; delete that one first, or rename the new one"
            )
    return None


def _read(
    memory: SessionMemory,
    tokenizer: Any,
    text: str,
    name: str,
    directory: Path | None,
    progress: OnProgress | None,
    ranges: Ranges | None,
) -> DocumentInfo:
    """A document that is not known yet."""
    method, bank = memory.method, memory.bank
    document: int | None = None
    tokens = unsaved = 0
    for block in _blocks(method, tokenizer, text, ranges):
        if document is None:
            document = memory.registry.add(name, 0, text, ranges)
        noted = {} if bank is None else {"documents": [document], "spans": _batched(block.spans, method)}
        method.read(_batched(block.ids, method), memory=memory.given, **noted)
        tokens, unsaved = tokens + len(block.ids), unsaved + len(block.ids)
        if bank is not None and directory is not None and unsaved >= SAVE_TOKENS:
            bank.save(directory)
            unsaved = 0
        if progress is not None:
            progress(ReadProgress(name, tokens, block.end, len(text), memory.held.nbytes))
    if document is None:
        raise LtmError(f"{name} holds no text; give it at least one word")
    return memory.finish(document, tokens)


def _batched(values: Any, method: Reader) -> Any:
    """A tensor of one row, where the method computes."""
    return None if values is None else values[None].to(method.device)


def _blocks(method: Reader, tokenizer: Any, text: str, ranges: Ranges | None) -> Iterator[TokenBlock]:
    """The tokens of a text, or of ranges of its characters, their own ranges counted from the text's start; in whole
    segments, so that what is remembered does not depend on how a text is cut into blocks."""
    segment = getattr(method.method_config, "segment_size", 1)
    size = max(BLOCK_TOKENS // segment, 1) * segment
    for start, end in [(0, len(text))] if ranges is None else ranges:
        for block in token_blocks(tokenizer, text[start:end], size):
            spans = None if block.spans is None else block.spans + start
            yield TokenBlock(block.ids, spans, block.end + start)


def _check_room(memory: SessionMemory, tokenizer: Any, text: str, name: str) -> None:
    """Refuse a text that a method's stream cannot hold before anything is read of it."""
    method, limit = memory.method, memory.method.max_stream_tokens
    if limit is None:
        return
    held, new = memory.num_tokens(), len(token_ids(tokenizer, text))
    if held + new > limit:
        before = f" after {held:,} that were read" if held else ""
        raise LtmError(
            f"{name} has {new:,} tokens{before}, but {method.name} on {method.backbone.name} ends at {limit:,}: it "
            "keeps true positions; read less, take a backbone with more positions, or a method without that end, "
            f"such as {DEFAULT_METHOD}"
        )
