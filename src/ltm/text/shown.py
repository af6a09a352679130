"""What is shown of the passages that were found: the few sentences that a question needs, in the order of the texts.

A small model wants little before its eyes: of the passages the sentences nearest the question; of what is said again
the last; and where these leave words of the question open, one more that they lead to, as the second of two sentences
that must be put together. What each rule gives: docs/log/2026-11-27-what-is-shown.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ltm.notes.records import Note
from ltm.notes.row import NoteRow
from ltm.notes.search import WeighedWords, content_words, vectors_of
from ltm.notes.splitting import is_same, sentences

HEADING_WORDS, _STOPS = 12, ".!?\"'”’"
"""What is no longer, and ends with no stop, is a heading of what follows."""
FEW_WORDS = 1 / 3
"""Share of a question's words below which sentences are compared by meaning."""
NEAR_SHARE = 0.5
"""Least nearness of a sentence that is shown, as a share of the nearest one's: what is farther draws a model off."""
SAID_AGAIN = 2 / 3
"""Share of a sentence's words that a later one has which says the same anew."""
LINK_SHARE = 0.5
"""Share, by rarity, of what is new in the sentences shown that another one must hold to be led to."""
LINKED_PASSAGES = 3
"""Passages in which that one is looked for."""


class Sentence(NamedTuple):
    """A sentence of an event's text, with its heading; nearness: to a question, about 0 to 1. Sorts as texts go."""

    event: int
    start: int
    end: int
    text: str
    nearness: float = 0.0


def shown_sentences(
    question: str, best: Sequence[Note], notes: NoteRow, words: WeighedWords, count: int, by_meaning: bool
) -> list[Sentence]:
    """At most `count` sentences of the best passages, and one that these lead to.

    words: of the question, in `notes`; by_meaning: compare by vectors where no sentence has many words of the question.
    """
    spans = [one for one in sentences_of(best) if not is_same(one.text, question)]
    if not spans:
        return []
    near = nearest(question, spans, notes, words, count, by_meaning)
    asked = set(content_words(question))
    kept = [one for place, one in enumerate(near) if not said_again(one, near[place + 1 :], asked)]
    linked = led_to(asked, kept, notes)
    return kept if linked is None else sorted([*kept, linked])


def sentences_of(notes: Iterable[Note]) -> list[Sentence]:
    """The sentences of passages, each at its place in the text it is from."""
    return [
        Sentence(cite.event, cite.start + start, cite.start + end, note.text[start:end])
        for note in notes
        for cite in note.cites
        for start, end in with_headings(note.text)
    ]


def nearest(
    question: str, spans: Sequence[Sentence], notes: NoteRow, words: WeighedWords, count: int, by_meaning: bool
) -> list[Sentence]:
    """Those nearest a question and at least half as near as the nearest, in the order of the texts.

    Nearness is the share of the question's words that a sentence holds, or where none holds a third of them the cosine
    of vectors, which cost a hundred times as long.
    """
    scores = [words.in_text(span.text) for span in spans]
    if by_meaning and max(scores) < FEW_WORDS:
        vectors = vectors_of(notes.encoder, [question, *(span.text for span in spans)])
        scores = (vectors[1:] @ vectors[0]).tolist()
    chosen = sorted(range(len(spans)), key=lambda place: -scores[place])[:count]
    top = scores[chosen[0]]
    least = min(NEAR_SHARE * top, top)  # a cosine may be below 0
    return sorted(spans[place]._replace(nearness=scores[place]) for place in chosen if scores[place] >= least)


def said_again(sentence: Sentence, later: Sequence[Sentence], asked: set[str]) -> bool:
    """Whether a later sentence says anew what this one says: it has most of its words, and all that were asked for.

    >>> first, second = (Sentence(1, n, n, f"The key of the red barn lies {where}.")
    ...                  for n, where in enumerate(["in Rome", "in Oslo"]))
    >>> said_again(first, [second], {"key", "barn"}), said_again(first, [second], {"key", "rome"})
    (True, False)
    """
    own = set(content_words(sentence.text))
    others = [set(content_words(one.text)) for one in later]
    return any(own & asked <= other and len(own & other) >= SAID_AGAIN * len(own) for other in others)


def led_to(asked: set[str], shown: Sequence[Sentence], notes: NoteRow) -> Sentence | None:
    """The sentence that answers what those shown leave open: it holds a word of the question that they lack, and half
    of what they say beside it. None where there is none, or nothing is open."""
    said = {word for one in shown for word in content_words(one.text)}
    missing, links = asked - said, said - asked
    if not missing or not links:
        return None
    query = " ".join([*sorted(missing), *sorted(links)])
    rarities = notes.weighed_words(query).rarities
    least = LINK_SHARE * sum(rarities[word] for word in links)
    best, most = None, 0.0
    known = {one.text for one in shown}
    found = notes.notes(ids=[note for note, _ in notes.ranked(query, LINKED_PASSAGES, "words")])
    for one in sentences_of(found):
        own = set(content_words(one.text))
        held = sum(rarities[word] for word in own & links)
        score = held + sum(rarities[word] for word in own & missing)
        if own & missing and 0 < held >= least and score > most and one.text not in known:
            best, most = one, score
    return best


def with_headings(text: str) -> list[tuple[int, int]]:
    """The sentences of a passage, each with the heading that stands above it: a few words that no stop ends say what
    the sentence is about.

    >>> text = "object.__len__(self)\\n\\nCalled to implement len(). It returns an integer."
    >>> [text[start:end] for start, end in with_headings(text)][1]
    'It returns an integer.'
    """
    joined: list[tuple[int, int]] = []
    above: int | None = None
    for start, end in sentences(text):
        is_heading = text[end - 1] not in _STOPS and len(text[start:end].split()) <= HEADING_WORDS
        begin = start if above is None else above
        above = begin if is_heading else None
        if not is_heading:
            joined.append((begin, end))
    return joined if above is None else [*joined, (above, len(text.rstrip()))]
