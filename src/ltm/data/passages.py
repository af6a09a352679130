"""Passages: the remembered chunks that an answer used, as stretches of text that a person can read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

CANDIDATES = 64
"""Chunks, most used first, from which passages are grown; the rest only adds its weight to a passage it lies in."""
REACH = 200
"""Characters that a passage grows to each side in search of the end of a sentence."""
LONGEST = 600
"""Characters above which neighbouring passages are not joined."""

_SENTENCE_END = re.compile(r"(?<=[.!?])['\"”’)\]]*\s+|\n\s*\n")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class UsedSpan:
    """A chunk that was used: document id (None: none), character range in its text (empty: not known), its tokens as
    text, and the weight it got."""

    document: int | None
    start: int
    end: int
    text: str
    weight: float


@dataclass(frozen=True)
class SourceText:
    """A document that passages are cut from; ranges: the characters that may be shown, None for all."""

    name: str
    text: str
    ranges: Sequence[tuple[int, int]] | None = None


@dataclass(frozen=True)
class Passage:
    """A stretch of a document that an answer used.

    document: its name, None for text that was remembered without one. start, end: characters in the document's text,
    None where they are not known. text: the passage itself. weight: attention that its chunks received from a token
    of the answer, averaged over tokens and heads; 0..1.
    """

    document: str | None
    start: int | None
    end: int | None
    text: str
    weight: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class TokenUse:
    """A chunk that a token used: the number of its passage, the chunk's characters in that passage's text (both 0
    where not known), and its weight."""

    passage: int
    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class TracedToken:
    """A token of an answer as text, memory's whole weight in it, and the chunks it used most, most used first."""

    text: str
    weight: float
    uses: list[TokenUse]


@dataclass(frozen=True)
class AnswerTrace:
    """Every passage that some token used, most used first, and the tokens."""

    passages: list[Passage] = field(default_factory=list)
    tokens: list[TracedToken] = field(default_factory=list)


def trace_tokens(
    words: Sequence[str],
    used_by_token: Sequence[Sequence[tuple[UsedSpan, float]]],
    used: Sequence[UsedSpan],
    sources: Mapping[int, SourceText],
    most: int = 8,
) -> AnswerTrace:
    """Passages of a whole answer and what each token used of them.

    words: each token as text; used_by_token: for each token the chunks it used and their weights, most used first;
    used: those chunks for all tokens together, most used first; most: chunks kept of each token.
    """
    shown = {id(span): span for uses in used_by_token for span, _ in uses[:most]}
    spans = [span for span in used if id(span) in shown]
    passages = find_passages(spans, sources, len(spans), len(spans))
    names = {number: source.name for number, source in sources.items()}
    places = {id(span): _place(span, passages, names) for span in spans}
    tokens = []
    for word, uses in zip(words, used_by_token, strict=True):
        found = [(places[id(span)], weight) for span, weight in uses[:most]]
        kept = [TokenUse(*place, weight) for place, weight in found if place is not None]
        tokens.append(TracedToken(word, sum(weight for _, weight in uses), kept))
    return AnswerTrace(passages, tokens)


def _place(span: UsedSpan, passages: Sequence[Passage], names: Mapping[int, str]) -> tuple[int, int, int] | None:
    """The passage that a chunk begins in, and its characters there."""
    name = None if span.document is None else names.get(span.document)
    for number, passage in enumerate(passages):
        if name is None or span.end <= span.start:
            if passage.start is None and passage.text == span.text:
                return number, 0, 0
            continue
        if passage.document != name or passage.start is None or passage.end is None:
            continue
        if passage.start <= span.start < passage.end:
            return number, span.start - passage.start, min(span.end, passage.end) - passage.start
    return None


def find_passages(
    used: Sequence[UsedSpan], sources: Mapping[int, SourceText], most: int = 5, candidates: int = CANDIDATES
) -> list[Passage]:
    """The `most` passages that were used most, none overlapping another.

    used: chunks, most used first. sources: by document id. A chunk whose place in a text is not known comes back as
    a passage of its own. candidates: chunks, most used first, from which passages are grown.
    """
    loose = [Passage(None, None, None, c.text, c.weight) for c in used[:candidates] if not _is_placed(c, sources)]
    passages = [
        _passage(document, sources[document], start, end, used)
        for document in sources
        for start, end in _grow([c for c in used[:candidates] if c.document == document], sources[document])
    ]
    return sorted(passages + loose, key=lambda passage: -passage.weight)[:most]


def readable_bounds(text: str, start: int, end: int, reach: int = REACH) -> tuple[int, int]:
    """start..end widened to the sentence around it, or to whole words where no sentence ends within `reach` characters.

    >>> text = "One is here. Two is there. Three."
    >>> readable_bounds(text, 17, 19)
    (13, 26)
    """
    return _left(text, start, reach), _right(text, end, reach)


def _left(text: str, start: int, reach: int) -> int:
    low = max(start - reach, 0)
    ends = [match.end() for match in _SENTENCE_END.finditer(text, low, start)]
    if ends:
        return ends[-1]
    if low == 0:
        return 0
    space = _SPACE.search(text, max(start - reach // 2, 0), start)
    return space.end() if space else start


def _right(text: str, end: int, reach: int) -> int:
    if _SENTENCE_END.match(text, end) or end >= len(text):
        return min(end, len(text))
    found = _SENTENCE_END.search(text, max(end - 1, 0), min(end + reach, len(text)))
    if found:
        return max(found.start(), end)
    if end + reach >= len(text):
        return len(text.rstrip()) if len(text.rstrip()) > end else len(text)
    spaces = [match.start() for match in _SPACE.finditer(text, end, end + reach // 2)]
    return spaces[-1] if spaces else end


def _is_placed(chunk: UsedSpan, sources: Mapping[int, SourceText]) -> bool:
    return chunk.document in sources and chunk.end > chunk.start


def _grow(chunks: Sequence[UsedSpan], source: SourceText) -> list[tuple[int, int]]:
    """Readable ranges around chunks of one text, in order, none beyond what may be shown."""
    grown = []
    for low, high in source.ranges or [(0, len(source.text))]:
        within = [(chunk.start - low, chunk.end - low) for chunk in chunks if low <= chunk.start < chunk.end <= high]
        grown += [(start + low, end + low) for start, end in _readable(within, source.text[low:high])]
    return grown


def _readable(chunks: Sequence[tuple[int, int]], text: str) -> list[tuple[int, int]]:
    """Readable ranges around ranges of a text, in order; those that touch become one, up to LONGEST characters."""
    ranges = {readable_bounds(text, start, end) for start, end in chunks}
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1] + 1:
            first, last = merged[-1]
            if end - first <= LONGEST or end <= last:
                merged[-1] = (first, max(end, last))
                continue
            start = max(start, last)
        merged.append((start, end))
    return merged


def _passage(document: int, source: SourceText, start: int, end: int, used: Sequence[UsedSpan]) -> Passage:
    """A range with the weight of every chunk that begins in it."""
    weight = sum(c.weight for c in used if c.document == document and c.end > c.start and start <= c.start < end)
    return Passage(source.name, start, end, source.text[start:end], weight)
