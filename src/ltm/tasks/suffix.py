"""Suffix identification: which of six passages is the start of the next chapter, after a long text before it?

The form is ChapterBreak's (Sun et al., 2022, "ChapterBreak: A Challenge Dataset for Long-Range Language Models"), as
LongMem uses it (Wang et al., 2023, §3.3): the text before a chapter boundary, the first 128 tokens after it, and five
others from the same book; the most likely one is the answer. Chance is 1/6. The authors' file is not public as a data
set of its own, so the examples are built from whole books, and figures are not comparable with the paper's:

- Chapters are what stands between the headings that the books mark. The heading, and lines set in emphasis right
  below it, are cut from a suffix, so that no chapter number gives it away. Title pages and other sections of less
  than 1,000 characters are no chapters, and what they hold is left out between prefix and suffix.
- The five others are starts of *later* chapters, drawn at random. (The paper says "from the same narrative".) An
  earlier chapter may be part of the prefix: a memory that finds it word for word would make it the most likely
  passage, which says nothing about understanding. Later ones are unread at every length, so that an example has the
  same six passages at all of them.
- Only boundaries with enough text before them for the longest length (8 characters a token, which is plenty) are
  used, so that all lengths ask the same examples.

A length counts prefix and suffix together, so that 8,192 fits a model with 8,192 positions. The prefix is one stream
(what does not fit the window leaves it, and goes to memory where there is one); each suffix goes on from there. They
have as many tokens each, so the sum of log-likelihoods and the mean order them alike. A tie counts as wrong.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice, pairwise, zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ltm.data.tokens import token_ids
from ltm.errors import ConfigError, LtmError
from ltm.tasks.base import Record, Row, Task, Unit
from ltm.tasks.comma_lists import numbers, words
from ltm.tasks.intervals import bootstrap_interval, wilson_interval
from ltm.tasks.registry import register
from ltm.tasks.scoring import CACHE_BYTES, start_tokens, text_tokens

if TYPE_CHECKING:
    from ltm.methods import Reader

NUM_CHOICES = 6
SHORTEST_CHAPTER = 1000
"""Characters below the heading; title pages have fewer, and the shortest chapters of novels have more."""
CHARS_PER_TOKEN = 8
"""More than any tokenizer's mean over prose: so many characters are sure to hold the tokens that are wanted."""

# What stands above a chapter's first sentence: headings, and lines wholly in emphasis (a date, a part's number).
_OPENING = re.compile(r"(?:[ \t]*(?:#[^\n]*|(?P<mark>[*_]+)[^\n]*(?P=mark)[.:)]?[ \t]*)?\n)+")


@dataclass(frozen=True)
class SuffixConfig:
    """Which lengths and how many examples. Raises ConfigError with every problem of the values together."""

    lengths: str = "512,1024,2048,4096,8192,16384"
    """Tokens of prefix and suffix together, with commas; every example is asked at each."""
    num_examples: int = 100
    """Chapter boundaries, drawn from all books in turn; fewer where the books have fewer."""
    suffix_tokens: int = 128
    """Tokens of each passage that is scored (the paper: 128)."""
    splits: str = "test"
    """Splits of the books, with commas: test, validation, train."""
    seed: int = 0
    """Draws boundaries and the five other passages."""

    def __post_init__(self) -> None:
        problems = [
            f"{name}={getattr(self, name)}; use 1 or more"
            for name in ("num_examples", "suffix_tokens")
            if getattr(self, name) < 1
        ]
        if min(numbers(self.lengths)) <= self.suffix_tokens + 1:
            problems.append(f"lengths={self.lengths}; each must exceed suffix_tokens={self.suffix_tokens} by 2 or more")
        if not words(self.splits):
            problems.append("splits is empty; name one or more")
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class Chapter:
    """Character places in a book: where the text before it ends, and where its first sentence starts."""

    text_before_ends: int
    start: int


@dataclass(frozen=True)
class Boundary:
    """A boundary in a book: the text before it is text[:prefix_end], the passages start at `starts`, the true one's
    first."""

    name: str
    text: str = field(repr=False)
    prefix_end: int
    starts: tuple[int, ...]

    def prefix(self, tokenizer: Any, count: int) -> list[int]:
        """The last `count` tokens of the text before the boundary and a blank line."""
        before = self.text[max(self.prefix_end - CHARS_PER_TOKEN * count, 0) : self.prefix_end]
        return _exactly(token_ids(tokenizer, before.rstrip() + "\n\n").tolist()[-count:], count)

    def suffixes(self, tokenizer: Any, count: int) -> Tensor:
        """The first `count` tokens of each passage, int64 [passages, count]."""
        passages = [self.text[start : start + CHARS_PER_TOKEN * count] for start in self.starts]
        return torch.tensor([_exactly(text_tokens(tokenizer, passage)[:count], count) for passage in passages])


@register("suffix")
class Suffix(Task):
    """See the module's text and `SuffixConfig`. A unit is one example at every length, a record one of them."""

    config_class = SuffixConfig
    source = "Sun et al., 2022, arXiv:2204.10878 (ChapterBreak), rebuilt from public-domain books"

    config: SuffixConfig

    def units(self) -> Iterator[Unit]:
        """Boundary by boundary, from each book in turn."""
        lengths, config = numbers(self.config.lengths), self.config
        books = (self._examples(book) for split in words(config.splits) for book in self._books(split))
        cost = sum(lengths) + len(lengths) * (NUM_CHOICES - 1) * config.suffix_tokens
        for example in islice(_in_turn(books), config.num_examples):
            yield Unit(example.name, cost, partial(self._run, example))

    def summarise(self, records: Sequence[Record]) -> list[Row]:
        """By length: accuracy; nats a token of the true suffix; how far it lies above the mean of the others."""
        rows: list[Row] = []
        for length in numbers(self.config.lengths):
            own = [record for record in records if record["length"] == length and record["fits"]]
            if not own:
                continue
            condition, count = {"length": length}, len(own)
            right = wilson_interval(sum(record["correct"] for record in own), count)
            rows.append(Row(condition, "accuracy", *right, count=count, extra={"chance": 1 / NUM_CHOICES}))
            for metric, up in (("nats_per_token", False), ("margin_nats_per_token", True)):
                mean = bootstrap_interval([record[metric] for record in own])
                rows.append(Row(condition, metric, *mean, count=count, higher_is_better=up))
        return rows

    def _run(self, example: Boundary, method: Reader) -> list[Record]:
        return [self._record(example, length, method) for length in numbers(self.config.lengths)]

    def _record(self, example: Boundary, length: int, method: Reader) -> Record:
        """One example at one length; `fits` is False where the method's stream is shorter, and nothing is scored."""
        record: Record = {"example": example.name, "length": length}
        limit = method.max_stream_tokens
        if limit is not None and length > limit:
            return {**record, "fits": False}
        method.reset()
        suffixes = example.suffixes(self.tokenizer, self.config.suffix_tokens)
        begin = start_tokens(self.tokenizer)
        prefix = example.prefix(self.tokenizer, length - self.config.suffix_tokens - len(begin))
        scores = suffix_log_likelihoods(method, begin + prefix, suffixes)
        return {**record, "fits": True, "log_likelihoods": scores, **figures(scores, self.config.suffix_tokens)}

    def _books(self, split: str) -> Iterator[dict[str, Any]]:
        if not self.data.has("books", f"{split}.jsonl.gz"):
            raise LtmError(
                f"suffix needs books with chapter_offsets: a folder that holds books/{split}.jsonl.gz (--data FOLDER); "
                "no public data set has them"
            )
        return self.data.json_lines("books", f"{split}.jsonl.gz")

    def _examples(self, book: dict[str, Any]) -> Iterator[Boundary]:
        """The usable boundaries of a book, in random order."""
        text, config = book["text"], self.config
        found = chapters(text, book["chapter_offsets"], CHARS_PER_TOKEN * config.suffix_tokens)
        order = list(range(len(found) - NUM_CHOICES + 1))
        random.Random(f"{config.seed}/{book['id']}").shuffle(order)
        for true, later in ((found[place], found[place + 1 :]) for place in order):
            if true.text_before_ends >= CHARS_PER_TOKEN * max(numbers(config.lengths)):
                name = f"{book['id']}/{true.start}"
                others = random.Random(f"{config.seed}/{name}").sample(later, NUM_CHOICES - 1)
                yield Boundary(name, text, true.text_before_ends, tuple(c.start for c in (true, *others)))


def chapters(text: str, offsets: Sequence[int], shortest: int = SHORTEST_CHAPTER) -> list[Chapter]:
    """The chapters of a book, with short sections left out; offsets: where each heading line starts.

    shortest: characters that a chapter must have below its heading, SHORTEST_CHAPTER at least.

    >>> chapters("# I\\n\\nShort.\\n\\n# II\\n\\n" + "Long. " * 200, [0, 13])
    [Chapter(text_before_ends=0, start=19)]
    """
    found: list[Chapter] = []
    left_out_from = None
    for heading, end in pairwise([*offsets, len(text)]):
        opening = _OPENING.match(text, heading, end)
        start = opening.end() if opening else heading
        before = heading if left_out_from is None else left_out_from
        left_out_from = before if end - start < max(shortest, SHORTEST_CHAPTER) else None
        if left_out_from is None:
            found.append(Chapter(before, start))
    return found


@torch.no_grad()
def suffix_log_likelihoods(method: Reader, prefix: Sequence[int], suffixes: Tensor) -> list[float]:
    """Nats of each suffix (int64 [choices, tokens]), summed over its tokens, after the prefix as one stream.

    The prefix runs once; batches of suffixes go on from copies of its stream.
    """
    stream = method.stream()
    first = stream.push(torch.tensor([list(prefix)]), keep=1)[0, -1].float()  # [vocab]
    size = max(1, CACHE_BYTES // max(stream.nbytes, 1))
    scores: list[float] = []
    for batch in suffixes.to(method.device).split(size):  # [rows, tokens]
        logits = stream.fork([0] * len(batch)).push(batch[:, :-1])
        predictions = torch.cat((first.expand(len(batch), 1, -1), logits.float()), dim=1)  # [rows, tokens, vocab]
        chosen = predictions.log_softmax(dim=-1).gather(-1, batch[..., None])  # [rows, tokens, 1]
        scores += chosen.double().sum(dim=(1, 2)).tolist()
    return scores


def figures(log_likelihoods: Sequence[float], tokens: int) -> Record:
    """What a record says of its six sums of nats, the true suffix's first, over so many tokens each.

    margin_nats_per_token: how far the true one lies above the mean of the others; it moves before the accuracy does.

    >>> figures([-2.0, -4.0, -8.0], 2)
    {'correct': True, 'nats_per_token': 1.0, 'margin_nats_per_token': 2.0}
    """
    true, *others = log_likelihoods
    return {
        "correct": true > max(others),
        "nats_per_token": -true / tokens,
        "margin_nats_per_token": (true - sum(others) / len(others)) / tokens,
    }


def _in_turn(groups: Iterable[Iterator[Boundary]]) -> Iterator[Boundary]:
    """The first of each group, then the second of each, ..."""
    return (example for example in chain.from_iterable(zip_longest(*groups)) if example is not None)


def _exactly(tokens: list[int], count: int) -> list[int]:
    assert len(tokens) == count, f"{count} tokens were wanted, the text has {len(tokens)}"
    return tokens
