"""What an answer used of a bank, as passages that a person can read: of the whole answer, and of each of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ltm.data.passages import AnswerTrace, Passage, SourceText, UsedSpan, find_passages, trace_tokens

if TYPE_CHECKING:
    from ltm.bank import Bank
    from ltm.methods.trace import UsedChunk
    from ltm.text.generation import Generated

NUM_USED = 5
"""Passages that are told of a whole answer."""


def used_passages(made: Generated, bank: Bank | None, tokenizer: Any) -> tuple[list[Passage], AnswerTrace]:
    """The passages that an answer used most, most used first, and what each of its tokens used.

    made: generated with trace; bank: what it was generated with, before anything is deleted there; None: no bank.
    """
    spans, texts = _spans(made.used, bank, tokenizer)
    ordered, words = list(spans.values()), token_words(tokenizer, made.token_ids)
    by_token = [[(spans[chunk.slot], chunk.weight) for chunk in used] for used in made.used_by_token]
    by_token = [[]] * (len(words) - len(by_token)) + by_token  # nothing is noted where nothing is remembered
    return find_passages(ordered, texts, NUM_USED), trace_tokens(words, by_token, ordered, texts)


def _spans(
    used: Sequence[UsedChunk], bank: Bank | None, tokenizer: Any
) -> tuple[dict[int, UsedSpan], dict[int, SourceText]]:
    """The chunks used, by slot, most used first, and the documents they lie in."""
    if bank is None or not used:
        return {}, {}
    sources = bank.sources([chunk.slot for chunk in used], 0)
    spans = {
        s.slot: UsedSpan(s.document, s.start, s.end, tokenizer.decode(s.token_ids), chunk.weight)
        for s, chunk in zip(sources, used, strict=True)
    }
    registry = bank.document_registry
    numbers = sorted({span.document for span in spans.values() if span.document is not None})
    known = [registry[number] for number in numbers if number in registry]
    return spans, {one.id: SourceText(one.name, one.text, one.ranges) for one in known if one.text is not None}


def token_words(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; characters made of several tokens come with the last of them."""
    words, done = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], skip_special_tokens=True)
        whole = text if end == len(ids) else text.rstrip("\ufffd")
        words.append(whole[len(done) :])
        done = max(done, whole, key=len)
    return words
