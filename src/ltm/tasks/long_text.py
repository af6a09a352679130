"""Long-text perplexity: each document one stream of tokens, by kind of text, place in the document and its length.

The paper's protocol (Wang et al., 2023, §3.2) is a stride as long as the window: segments do not overlap, and what
leaves the window is gone for `window` and remembered by a method with a memory. A shorter stride gives every token more
local context and takes window / stride times as long. Losses are kept as sums over ranges of places, so that methods
can be compared over the same tokens afterwards. Where a method's stream ends (`max_stream_tokens`), it scores what
fits and its records say so; `LongText.common` cuts the records of several methods to what all of them scored. `ltm eval
perplexity` scores a user's own files by the same functions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ltm.data.tokens import token_blocks
from ltm.errors import ConfigError, LtmError
from ltm.streams.scoring import Progress, score_stream
from ltm.tasks.base import Record, Row, Task, Unit
from ltm.tasks.perplexity import doubling_edges
from ltm.tasks.registry import register

if TYPE_CHECKING:
    from ltm.methods import Reader
    from ltm.tasks.data import DataSource

RESAMPLES = 2000
"""Bootstrap samples of documents behind each interval."""

Text = tuple[str, str]
"""Id and text of a document."""


@dataclass(frozen=True)
class LongTextConfig:
    """Which texts, and how much of each. Raises ConfigError with every problem of the values together."""

    kinds: str = "books,latex_math,techdocs,wikitext2"
    """Kinds of text, with commas: books, latex_math, techdocs, wikitext2, or another folder with SPLIT.jsonl.gz."""
    split: str = "test"
    """train, validation or test, as far as the data has it."""
    documents: int = 4
    """First documents of each kind; more make the intervals narrower and take longer."""
    max_tokens: int = 16384
    """Most tokens taken of each document."""

    def __post_init__(self) -> None:
        problems = [] if self.kind_names else [f"kinds={self.kinds!r} names no kind; use books, wikitext2, ..."]
        if self.documents < 1:
            problems.append(f"documents={self.documents}; use 1 or more")
        if self.max_tokens < 2:
            problems.append(f"max_tokens={self.max_tokens}; use 2 or more")
        if problems:
            raise ConfigError(problems)

    @property
    def kind_names(self) -> list[str]:
        """The kinds, each once, in the order given."""
        return list(dict.fromkeys(name.strip() for name in self.kinds.split(",") if name.strip()))


@register("long_text")
class LongText(Task):
    """Perplexity of long documents. A unit and a record are one document."""

    config_class = LongTextConfig
    full_stride: ClassVar[bool] = True
    """A full window is emptied, as in the paper's protocol, where no other stride is asked for."""
    source = "Wang et al., 2023, §3.2 (arXiv:2306.07174): books and other long documents; PG-19, WikiText-2 by name"

    def units(self) -> Iterator[Unit]:
        """First documents of all kinds, then the second ones: a stopped run has seen every kind."""
        kinds = [list(self._documents(kind)) for kind in self.config.kind_names]
        for place in range(self.config.documents):
            for kind, documents in zip(self.config.kind_names, kinds, strict=True):
                if place < len(documents):
                    name, ids = documents[place]
                    yield Unit(f"{kind}/{name}", len(ids), partial(score_document, kind=kind, name=name, ids=ids))

    def summarise(self, records: Sequence[Record]) -> list[Row]:
        """The rows of `perplexity_rows`."""
        return perplexity_rows(records)

    @staticmethod
    def common(records: Mapping[str, Sequence[Record]]) -> dict[str, list[Record]]:
        """The records of several methods cut to what all of them scored: equal documents, equal ranges of places.

        A range that a method scored in part only is left out for all; so is a document of which nothing is left.
        """
        parts = {
            method: {(record["id"], part["to"]): part["tokens"] for record in own for part in record["positions"]}
            for method, own in records.items()
        }
        first, *others = parts.values()
        shared = {key for key, tokens in first.items() if all(other.get(key) == tokens for other in others)}
        cut = {method: [_cut(record, shared) for record in own] for method, own in records.items()}
        return {method: [record for record in own if record["tokens"]] for method, own in cut.items()}

    def _documents(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        """Name and token ids of the first documents of a kind that have something to score."""
        limit = self.config.max_tokens
        found = ((name, _first_tokens(self.tokenizer, text, limit)) for name, text in self._texts(kind))
        return islice(((name, ids) for name, ids in found if len(ids) > 1), self.config.documents)

    def _texts(self, kind: str) -> Iterable[Text]:
        """The documents of a kind: of the local folder, or public ones by name where no folder was given."""
        split = self.config.split
        for file in (f"{split}.jsonl.gz", f"{split}.jsonl"):
            if self.data.has(kind, file):
                return ((str(row["id"]), row["text"]) for row in self.data.json_lines(kind, file))
        for file in _raw_files(split):
            if self.data.has(kind, file):
                return wiki_articles(self.data.text(kind, file))
        if self.data.folder is not None:
            raise LtmError(
                f"{self.data.folder / kind} holds no {split}.jsonl.gz and no {split}.txt.gz; choose among the "
                "kinds that are there with --set long_text.kinds=..., or another split with --set long_text.split=..."
            )
        return _public_texts(self.data, kind, split)


def score_document(
    method: Reader,
    *,
    kind: str,
    name: str,
    ids: Tensor,
    ends: Sequence[int] = (),
    progress: Progress | None = None,
) -> list[Record]:
    """One document under a method: its record, losses summed over ranges of places.

    A range "from".."to" - 1 counts places from 0; the first token has no loss. length: tokens of the document; taken:
    those the method was given; ended_at: where its stream ended before the document did, else None. ends: where the
    streams of methods end that this one is compared with, as ranges then do too.
    """
    method.reset()
    limit = method.max_stream_tokens
    fits = len(ids) if limit is None else min(limit, len(ids))
    losses = score_stream(method, ids[:fits], progress=progress)
    record = {
        "id": f"{kind}/{name}",
        "kind": kind,
        "document": name,
        "length": len(ids),
        "ended_at": fits if fits < len(ids) else None,
        "taken": fits,
        "tokens": len(losses),
        "nats": float(losses.double().sum()),
        "positions": position_sums(losses, ends),
    }
    method.reset()
    return [record]


def perplexity_rows(records: Sequence[Record]) -> list[Row]:
    """Perplexity by kind, by kind and place in the document, and by kind and length of the document."""
    rows: list[Row] = []
    for kind in dict.fromkeys(record["kind"] for record in records):
        own = [record for record in records if record["kind"] == kind]
        rows += _row({"kind": kind}, [(record["nats"], record["tokens"]) for record in own])
        ends = sorted({(part["to"], part["from"]) for record in own for part in record["positions"]})
        for end, start in ends:
            parts = [part for record in own for part in record["positions"] if part["to"] == end]
            sums = [(part["nats"], part["tokens"]) for part in parts]
            rows += _row({"kind": kind, "position": end}, sums, first_position=start)
        for most in sorted({_length_bucket(record["length"]) for record in own}):
            same = [record for record in own if _length_bucket(record["length"]) == most]
            rows += _row({"kind": kind, "length": most}, [(record["nats"], record["tokens"]) for record in same])
    return rows


def position_sums(losses: Tensor, ends: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Tokens and nats in ranges of places that double, cut at `ends`; losses: float32 [tokens - 1], of place 1, 2, ...

    >>> position_sums(torch.ones(2))
    [{'from': 0, 'to': 1024, 'tokens': 2, 'nats': 2.0}]
    """
    parts, tokens = [], len(losses) + 1
    edges = {*doubling_edges(tokens), *(end for end in ends if end <= tokens)}
    for start, end in pairwise(sorted(edges)):
        inside = losses[max(start - 1, 0) : end - 1]
        if len(inside):
            nats = float(inside.double().sum())
            parts.append({"from": start, "to": end, "tokens": len(inside), "nats": nats})
    return parts


def perplexity_interval(sums: Sequence[tuple[float, int]], seed: int = 0) -> tuple[float, float | None, float | None]:
    """exp(all nats / all tokens) of documents (nats, tokens), with a 95% bootstrap interval over documents.

    One document alone has no interval. The same seed gives the same interval.
    """
    data = np.asarray(sums, dtype=np.float64)  # [documents, 2]
    value = _exp(data[:, 0].sum() / data[:, 1].sum())
    if len(data) < 2:
        return value, None, None
    drawn = np.random.default_rng(seed).integers(len(data), size=(RESAMPLES, len(data)))
    totals = data[drawn].sum(axis=1)  # [resamples, 2]
    low, high = np.quantile(totals[:, 0] / totals[:, 1], [0.025, 0.975])
    return value, _exp(low), _exp(high)


def wiki_articles(text: str) -> Iterator[Text]:
    """Title and text of each article of raw WikiText, cut at its "= Title =" lines.

    A heading stands between blank lines, which tells it from a line of a formula; the sections' have more signs.

    >>> [title for title, _ in wiki_articles("\\n = A = \\n\\n x\\n\\n = = B = = \\n\\n = C = \\n\\n y\\n")]
    ['A', 'C']
    """
    headings = list(_HEADING.finditer(text))
    ends = [match.start() for match in headings[1:]] + [len(text)]
    seen: dict[str, int] = {}
    for heading, end in zip(headings, ends, strict=True):
        title = heading["title"]
        seen[title] = seen.get(title, 0) + 1
        name = title if seen[title] == 1 else f"{title} ({seen[title]})"
        yield name, text[heading.start() : end].strip() + "\n"


_HEADING = re.compile(r"(?:\A|(?<=\n))[ ]?= (?P<title>(?!=)[^\n]*?[^=\s]) =[ ]*\n(?=[ ]*(?:\n|\Z))")


def _raw_files(split: str) -> list[str]:
    """Names of a split as one text; WikiText writes valid for validation."""
    names = [split, "valid"] if split == "validation" else [split]
    return [f"{name}.txt{end}" for name in names for end in (".gz", "")]


def _public_texts(data: DataSource, kind: str, split: str) -> Iterable[Text]:
    """A public data set of this kind; LtmError that says what to do where there is none."""
    if kind not in _PUBLIC:
        raise LtmError(
            f"no public data set stands for the kind {kind!r} (there are: {', '.join(_PUBLIC)}); "
            f"give a folder that holds {kind}/{split}.jsonl.gz with --data FOLDER, or leave the kind out with "
            f"--set long_text.kinds={','.join(_PUBLIC)}"
        )
    return _PUBLIC[kind](data, split)


def _pg19(data: DataSource, split: str) -> Iterator[Text]:
    rows = data.public("deepmind/pg19", split=split, streaming=True)
    return ((row["short_book_title"], row["text"]) for row in rows)


def _wikitext(data: DataSource, split: str) -> Iterator[Text]:
    rows = data.public("Salesforce/wikitext", "wikitext-2-raw-v1", split=split)
    return wiki_articles("\n".join(row["text"].rstrip("\n") for row in rows))


_PUBLIC: dict[str, Callable[[DataSource, str], Iterator[Text]]] = {"books": _pg19, "wikitext2": _wikitext}


def _first_tokens(tokenizer: Any, text: str, most: int) -> Tensor:
    """The first tokens of a text; a whole book is not tokenized for its beginning."""
    block = next(token_blocks(tokenizer, text, most), None)
    return torch.empty(0, dtype=torch.long) if block is None else block.ids


def _length_bucket(tokens: int) -> int:
    """The upper end of the range of lengths that a document falls in: 1024, 2048, 4096, ..."""
    return doubling_edges(tokens)[-1]


def _cut(record: Record, shared: set[tuple[str, int]]) -> Record:
    """A record with the ranges that are shared, its sums taken anew; itself where all are."""
    kept = [part for part in record["positions"] if (record["id"], part["to"]) in shared]
    if len(kept) == len(record["positions"]):
        return record
    return {
        **record,
        "tokens": sum(part["tokens"] for part in kept),
        "nats": math.fsum(part["nats"] for part in kept),
        "positions": kept,
    }


def _row(condition: dict[str, Any], sums: Sequence[tuple[float, int]], **extra: Any) -> list[Row]:
    """The row of documents' (nats, tokens); none where nothing was scored."""
    scored = [(nats, tokens) for nats, tokens in sums if tokens]
    if not scored:
        return []
    value, low, high = perplexity_interval(scored)
    extra["tokens"] = sum(tokens for _, tokens in scored)
    return [Row(condition, "perplexity", value, low, high, len(scored), higher_is_better=False, extra=extra)]


def _exp(nats: float) -> float:
    """exp, kept finite: JSON has no infinity."""
    return math.exp(min(float(nats), 700.0))
