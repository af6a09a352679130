"""Exercises: generated documents that are easy with a memory and hard without one, to be mixed into training text.

Running text rarely says when to trust a memory: most of what is retrieved does not decide the next token. An exercise
does. Each is made of real text and takes one of four forms:

facts   statements between paragraphs ("The locker code of Ada Moss is 4071."), asked for much later;
labels  sentences of several texts, each followed by a label that stands for its text: demonstrations whose label words
        are drawn anew for every document, so that only earlier demonstrations tell them;
pairs   a list of names and values, filler, and the same list in another order;
quotes  text that quotes earlier passages of itself.

No test set's wording, label or text is used. Related: Min et al., 2022 ("MetaICL": learning to learn in context from
many tasks); Gu et al., 2023 ("PICL": demonstrations built from plain text); here labels mean nothing beforehand.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from ltm.data.documents import Document
from ltm.errors import LtmError

_SENTENCE = re.compile(r"[^\s].{30,240}?[.!?](?=\s)", re.DOTALL)
_LEAST_SENTENCES = 40

_FIRST = ("Ada", "Bruno", "Cleo", "Dmitri", "Elsa", "Farid", "Gita", "Hugo", "Ines", "Jonas", "Kira", "Lars", "Mina")
_LAST = ("Abel", "Brand", "Crane", "Dunn", "Ekman", "Frost", "Gray", "Hale", "Ivers", "Jung", "Kerr", "Lund", "Moss")
_THINGS = (
    "locker code",
    "badge number",
    "room",
    "account",
    "home town",
    "nickname",
    "colour",
    "file",
    "team",
    "ticket",
)
_WORD_LIST = (
    "amber apple arrow basin birch black blue brass bread bridge brown candle cedar chalk cherry clay cloud copper "
    "coral cotton crow delta dusk eagle east ember fern field finch flint forest garden glass gold granite green grey "
    "harbor hazel hill honey iron island ivory jade lake lemon lily linen maple marble meadow mint moon moss north "
    "oak ocean olive orange pearl pepper pine plum purple quartz rain red reed river rose sage salt sand scarlet "
    "silver slate snow south steel stone storm sugar summer swan thorn tiger timber tulip valley velvet violet water "
    "west wheat white willow winter wolf yellow "
)
WORDS = _WORD_LIST.split()
_FACTS = (
    ("The {thing} of {name} is {value}.", "What is the {thing} of {name}? The {thing} of {name} is {value}."),
    ("{name}'s {thing}: {value}.", "Which {thing} does {name} have? {name}'s {thing}: {value}."),
    ("Note that {name} has the {thing} {value}.", "Question: what is {name}'s {thing}?\nAnswer: {value}"),
    ("[{thing} | {name} | {value}]", "[{thing} | {name} | {value}]"),
)
_LABELLED = ("{text}\n{field}: {label}\n\n", "Text: {text}\n{field}: {label}\n\n", "{text} => {label}\n")
_FIELDS = ("Topic", "Source", "Class", "Group", "Type", "Shelf", "Tag", "Answer")
_PAIRS = ("{key}: {value}\n", '"{key}": "{value}",\n', "{key} has {value}. ", "{key}\t{value}\n")
_QUOTES = ("As quoted before: “{}” ", "To repeat: {} ", "\n> {}\n\n")


def exercises(texts: Sequence[str], count: int, *, num_chars: int = 24_000, seed: int = 0) -> list[Document]:
    """`count` documents of about `num_chars` characters, all four forms in turn; the same for the same arguments.

    texts: training texts, whose sentences are the material. Raises LtmError where fewer than two of them hold 40
    sentences.

    >>> documents = exercises([document.text for document in iter_documents("books")], 100)  # doctest: +SKIP
    >>> corpus = Corpus([iter_documents("books"), documents], ["books", "exercises"])  # doctest: +SKIP
    >>> stream = SegmentStream(corpus, backbone.tokenizer, weights=[3, 1])  # doctest: +SKIP
    """
    usable = [text for text in texts if len(list(islice(_SENTENCE.finditer(text), _LEAST_SENTENCES))) > 39]
    if len(usable) < 2:
        raise LtmError(
            f"{len(usable)} of {len(texts)} texts hold {_LEAST_SENTENCES} sentences or more; exercises need two"
        )
    makers: Sequence[tuple[str, Callable[[Sequence[str], int, random.Random], str]]] = (
        ("facts", _facts),
        ("labels", _labels),
        ("pairs", _pairs),
        ("quotes", _quotes),
    )
    documents = []
    for number in range(count):
        form, make = makers[number % len(makers)]
        text = make(usable, num_chars, random.Random(f"exercise {seed} {number}"))
        documents.append(Document(f"{form} {number}", text, "generated"))
    return documents


def _facts(texts: Sequence[str], num_chars: int, draw: random.Random) -> str:
    """Sentences with a statement now and then, each asked for at two places at least a few hundred words later."""
    sentences = _sentences(draw.choice(texts), draw)
    stated, asked = draw.choice(_FACTS)
    facts = [
        {"thing": draw.choice(_THINGS), "name": name, "value": _value(draw)}
        for name in _names(max(num_chars // 1200, 2), draw)
    ]
    half = num_chars // 2
    first = _interleave(sentences, [stated.format(**fact) for fact in facts], half)
    questions = [asked.format(**fact) for fact in draw.sample(facts * 2, 2 * len(facts))]
    return f"{first}\n\n{_interleave(sentences, questions, num_chars - half)}"


def _labels(texts: Sequence[str], num_chars: int, draw: random.Random) -> str:
    """Sentences of two to five texts, in random order, each with the label of its text."""
    chosen = draw.sample(texts, min(draw.randint(2, 5), len(texts)))
    classes = list(zip(draw.sample(WORDS, len(chosen)), [_sentences(text, draw) for text in chosen], strict=True))
    template, field = draw.choice(_LABELLED), draw.choice(_FIELDS)
    parts: list[str] = []
    length = 0
    while length < num_chars:
        label, sentences = draw.choice(classes)
        parts.append(template.format(text=next(sentences), field=field, label=label))
        length += len(parts[-1])
    return "".join(parts)


def _pairs(texts: Sequence[str], num_chars: int, draw: random.Random) -> str:
    """A list, filler, the list again in another order."""
    template = draw.choice(_PAIRS)
    pairs = [template.format(key=name, value=_value(draw)) for name in _names(max(num_chars // 120, 4), draw)]
    listed = "".join(pairs)
    filler = _interleave(_sentences(draw.choice(texts), draw), [], max(num_chars - 2 * len(listed), 0))
    return f"{listed}\n{filler}\n\n{''.join(draw.sample(pairs, len(pairs)))}"


def _quotes(texts: Sequence[str], num_chars: int, draw: random.Random) -> str:
    """A text in order; after its first third, every other passage is one from before."""
    sentences, template = _sentences(draw.choice(texts), draw), draw.choice(_QUOTES)
    passages: list[str] = []
    parts: list[str] = []
    length = 0
    while length < num_chars:
        fresh = " ".join(islice(sentences, draw.randint(2, 5)))
        passages.append(fresh)
        parts.append(f"{fresh} ")
        if length > num_chars / 3:
            parts.append(template.format(draw.choice(passages[: max(len(passages) - 5, 1)])))
        length += sum(map(len, parts[-2:]))
    return "".join(parts)


def _interleave(sentences: Iterator[str], inserts: Sequence[str], num_chars: int) -> str:
    """Sentences of about `num_chars` in all, with the inserts at even distances."""
    parts: list[str] = []
    room = max(num_chars - sum(map(len, inserts)), 0)
    length = 0
    for number in range(len(inserts) + 1):
        while length < room * (number + 1) / (len(inserts) + 1):
            parts.append(next(sentences))
            length += len(parts[-1])
        parts += inserts[number : number + 1]
    return " ".join(parts)


def _sentences(text: str, draw: random.Random) -> Iterator[str]:
    """Sentences in order from a random one on, without end; spaces and line breaks become one space."""
    found = [" ".join(match.group().split()) for match in _SENTENCE.finditer(text)]
    start = draw.randrange(len(found))
    while True:
        yield from found[start:]
        start = 0


def _names(count: int, draw: random.Random) -> list[str]:
    """Different names of people; with numbers where there are not enough."""
    names = [f"{first} {last}" for first in _FIRST for last in _LAST]
    numbered = [f"{name} {number}" for number in range(2, 2 + count // len(names)) for name in names]
    return draw.sample(names, len(names))[:count] + numbered[: max(count - len(names), 0)]


def _value(draw: random.Random) -> str:
    """A number of three to six digits, or one or two words."""
    if draw.random() < 0.6:
        return str(draw.randrange(100, 10 ** draw.randint(3, 6)))
    return " ".join(draw.sample(WORDS, draw.randint(1, 2)))
