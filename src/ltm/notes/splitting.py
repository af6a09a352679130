"""A text cut into passages: whole sentences, up to a number of words."""

from __future__ import annotations

import re
from collections.abc import Iterator

Span = tuple[int, int]
"""Character range, the end not included."""

_SENTENCE_END = re.compile(r"(?<=[.!?])['\"”’)\]]*\s+|\n\s*\n")
_LETTERS, _SPEAKER = re.compile(r"\w+"), re.compile(r"^\s*\w+:\s+")
_WORD = re.compile(r"\S{1,24}")
"""A longer run without a space (a link, Chinese) counts as several words, so that it is cut as well."""


def sentences(text: str) -> Iterator[Span]:
    """Sentences and paragraphs without the white space around them, in order.

    >>> [text[a:b] for text in ["One. Two?\\n\\nThree"] for a, b in sentences(text)]
    ['One.', 'Two?', 'Three']
    """
    start = 0
    for match in _SENTENCE_END.finditer(text):
        end = match.start() + len(match.group().rstrip())  # a closing quotation mark belongs to its sentence
        yield from _trimmed(text, start, end)
        start = match.end()
    yield from _trimmed(text, start, len(text))


def only_asks(text: str) -> bool:
    """Whether a text is made of questions alone: it says nothing that an answer could be found in.

    >>> only_asks("Are you there? What is my dog called?"), only_asks("My dog is Tom. What does he eat?")
    (True, False)
    """
    spans = list(sentences(text))
    return bool(spans) and all(text[:end].rstrip("\"'”’)]")[-1:] in ("?", "？") for _, end in spans)


def is_same(text: str, question: str) -> bool:
    """Whether a text is the question itself, asked before, with or without its speaker: it tells nothing new.

    >>> is_same("User: Hello again!", "hello again"), is_same("The barn is red.", "Is the barn red?")
    (True, False)
    """
    said, asked = (_LETTERS.findall(one.casefold()) for one in (_SPEAKER.sub("", text), question))
    return said == asked


def passages(text: str, most_words: int) -> list[Span]:
    """Passages that together hold everything but the white space between them, each of whole sentences as far as they
    fit; a sentence of more than `most_words` is cut between words.

    >>> passages("One two. Three. Four five six.", most_words=3)
    [(0, 15), (16, 30)]
    """
    packed: list[Span] = []
    held = 0
    for start, end in sentences(text):
        words = [match.span() for match in _WORD.finditer(text, start, end)]
        if packed and held + len(words) <= most_words:
            packed[-1], held = (packed[-1][0], end), held + len(words)
            continue
        for first in range(0, len(words), most_words):
            piece = words[first : first + most_words]
            packed.append((piece[0][0], piece[-1][1]))
            held = len(piece)
    return packed


def _trimmed(text: str, start: int, end: int) -> Iterator[Span]:
    piece = text[start:end]
    if stripped := piece.strip():
        first = start + piece.index(stripped[0])
        yield first, first + len(stripped)
