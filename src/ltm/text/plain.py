"""Questions to models without a chat template, which go on with texts: "Question: ... Answer:", and an answer that ends
with its line.

A base model that is given a bare question goes on with more questions, and never ends: Gemma 3 270M answered 20% of
SQuAD's questions so and wrote to the last token allowed, in three seconds; asked in this form, 37% in 14 tokens
(docs/log/2026-11-27-what-is-shown.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

LABELS = {"user": "Question: ", "assistant": "Answer: "}
_SPELLINGS = ("\n", "Ċ", "0x0A")
"""How vocabularies write a line end: itself, byte-level BPE's letter for it, the byte."""
_KNOWN: WeakKeyDictionary[Any, tuple[int, list[int]]] = WeakKeyDictionary()


def has_template(tokenizer: Any) -> bool:
    """Whether a model was made for turns of a chat."""
    return bool(getattr(tokenizer, "chat_template", None))


def plain_question(question: str, before: str, instruction: str, history: Sequence[Mapping[str, str]]) -> str:
    """Earlier turns, what stands before the question, the question, and the beginning of its answer.

    >>> print(plain_question("Who swims?", "Ada swims.", "", []))
    Ada swims.
    <BLANKLINE>
    Question: Who swims?
    Answer:
    """
    turns = [LABELS.get(turn["role"], "") + turn["content"] for turn in history]
    asked = f"{LABELS['user']}{question} {instruction}".rstrip()
    return "\n\n".join(part for part in (*turns, before, f"{asked}\nAnswer:") if part)


def line_ends(tokenizer: Any) -> list[int]:
    """The tokens that hold a line end, which end an answer in this form."""
    vocabulary = tokenizer.get_vocab()
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != len(vocabulary):
        maybe = [number for word, number in vocabulary.items() if any(spelling in word for spelling in _SPELLINGS)]
        ends = sorted(number for number in maybe if "\n" in tokenizer.decode([number]))
        known = _KNOWN[tokenizer] = (len(vocabulary), ends)
    return known[1]
