"""Recall of what was planted in a long text: pass keys in essays, values in dictionaries, by length and depth.

The text is read (`method.read`), then the question comes as the prompt. Seven variants:

- passkey: one five-digit key in real text (Mohtashami & Jaggi, 2023, arXiv:2305.16300, plant it in repeated filler
  sentences, which any compression gets for free; here the filler is Paul Graham's essays). A reading for each depth.
- multi: five keys, each with a name, at all depths of one reading, asked one after another; none of the answers is
  seen by the next question.
- sentences: the same with each key at the end of a sentence of its own, which is asked for by its beginning, for models
  that are too small to tell whose key is whose.
- facts: five facts of many forms (`ltm.tasks.facts`), each said once within the text, asked for by their sentences'
  beginnings; reworded: the same, asked for by the beginnings of other wordings.
- key_value: a JSON dictionary of five-digit numbers, as long as asked, one pair asked at each depth.
- uuid: the dictionaries of Lost in the Middle (Liu et al., 2023, arXiv:2307.03172) with 75 or 140 pairs of UUIDs; the
  pairs that stand at the depths are asked, instead of the file's one key moved about. Their length in a table is that
  of the first dictionary (others differ by a few tokens).

Two scores. Exact: the right answer stands, as a whole word or number, in what the method writes greedily, which is
cut to the answer's tokens and four more, so that listing several does not help. Likelihood: nats of the right answer,
and whether it is the likeliest of ten (chance 0.1), the others being what else was read (other keys, values of the
same dictionary) and random keys: this moves long before a small model writes the answer. Questions on one reading are
not independent, so the intervals of multi, key_value and uuid are somewhat too narrow.

A text that a method cannot hold with its question (`max_stream_tokens`) gives records with fits=False, which no mean
counts: not measured, not zero.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch

from ltm.errors import ConfigError
from ltm.tasks.base import Record, Row, Task, Unit
from ltm.tasks.comma_lists import numbers, words
from ltm.tasks.intervals import bootstrap_interval, wilson_interval
from ltm.tasks.recall_text import (
    NAMES,
    NUM_DISTRACTORS,
    SENTENCES,
    Haystack,
    PlantedQuestion,
    PlantedText,
    contains_answer,
    dictionary_reading,
    facts_reading,
    haystack_reading,
    number_pairs,
    uuid_pairs,
)
from ltm.tasks.registry import register
from ltm.tasks.scoring import greedy_tokens, score_continuations, text_tokens

if TYPE_CHECKING:
    from ltm.methods import Reader

VARIANTS = ("passkey", "multi", "sentences", "facts", "reworded", "key_value", "uuid")
SPARE_TOKENS = 4
"""What a method may write beside the answer: a space, a quotation mark, the end of the number."""


@dataclass(frozen=True)
class RecallConfig:
    """Which variants, lengths and depths, how often. Raises ConfigError with every problem of the values together."""

    variants: str = "passkey,multi,key_value,uuid"
    """Kinds of test, with commas."""
    lengths: str = "1024,4096,16384,65536,131072"
    """Tokens that are read (exactly, but key_value: less than one pair shorter), with commas."""
    depths: str = "0,25,50,75,100"
    """Percent of the text before the key, or the pair's place in percent, with commas."""
    pairs: str = "75,140"
    """Pairs of the uuid dictionaries, with commas (Lost in the Middle: 75, 140)."""
    trials: int = 5
    """Other keys, places in the essays and dictionaries: readings of each cell."""
    seed: int = 0
    """Draws everything that is drawn."""

    def __post_init__(self) -> None:
        unknown = [name for name in words(self.variants) if name not in VARIANTS]
        problems = [f"variants={','.join(unknown)}; known: {', '.join(VARIANTS)}"] if unknown else []
        problems += ["variants is empty; name one or more"] if not words(self.variants) else []
        depths = numbers(self.depths)
        if depths != sorted(set(depths)) or depths[-1] > 100:
            problems.append(f"depths={self.depths}; use different percentages from 0 to 100, in order")
        names = SENTENCES if "sentences" in words(self.variants) else NAMES
        if len(depths) > len(names):
            problems.append(f"depths={self.depths}; use {len(names)} or fewer")
        if min(numbers(self.lengths)) < 1 or min(numbers(self.pairs)) <= NUM_DISTRACTORS:
            problems.append(f"lengths={self.lengths}, pairs={self.pairs}; use 1 and {NUM_DISTRACTORS + 1} or more")
        if self.trials < 1:
            problems.append(f"trials={self.trials}; use 1 or more")
        if problems:
            raise ConfigError(problems)


@register("recall")
class Recall(Task):
    """See the module's text and `RecallConfig`. A unit is one reading with its questions, a record one question."""

    config_class = RecallConfig
    source = "Mohtashami & Jaggi, 2023, arXiv:2305.16300 (pass key); Liu et al., 2023, arXiv:2307.03172 (key-value)"

    config: RecallConfig

    def units(self) -> Iterator[Unit]:
        """Trial by trial, the short texts first."""
        lengths, pairs = sorted(numbers(self.config.lengths)), sorted(numbers(self.config.pairs))
        depths, chosen = numbers(self.config.depths), words(self.config.variants)
        for trial in range(self.config.trials):
            if "uuid" in chosen:
                yield from (self._unit("uuid", count, depths, trial) for count in pairs)
            for length in lengths:
                if "passkey" in chosen:
                    yield from (self._unit("passkey", length, [depth], trial) for depth in depths)
                yield from (
                    self._unit(name, length, depths, trial)
                    for name in ("multi", "sentences", "facts", "reworded", "key_value")
                    if name in chosen
                )

    def summarise(self, records: Sequence[Record]) -> list[Row]:
        """By variant and length, then by depth too: exact accuracy, accuracy among ten, nats of the right answer."""
        measured = [record for record in records if record["fits"]]
        rows: list[Row] = []
        for names in (("variant", "length"), ("variant", "length", "depth")):
            groups: dict[tuple, list[Record]] = {}
            for record in sorted(measured, key=_place):
                groups.setdefault(tuple(record[name] for name in names), []).append(record)
            for values, own in groups.items():
                rows += _rows(dict(zip(names, values, strict=True)), own)
        return rows

    def _unit(self, variant: str, size: int, depths: Sequence[int], trial: int) -> Unit:
        """size: tokens, of uuid pairs."""
        length = len(self._reading(variant, size, depths, 0).tokens) if variant == "uuid" else size
        where = depths[0] if variant == "passkey" else "all"
        key = f"{variant}/{size}/depth={where}/trial={trial}"
        shared = {"example": key, "variant": variant, "length": length, "trial": trial}
        return Unit(key, length, partial(self._run, shared, partial(self._reading, variant, size, depths, trial)))

    def _run(self, shared: Record, make_reading: Callable[[], PlantedText], method: Reader) -> list[Record]:
        """One reading, then all its questions; `example` is the reading, so that its questions count as one."""
        reading = make_reading()
        shared = {**shared, "tokens": len(reading.tokens)}
        answers = ask(method, self.tokenizer, reading)
        return [
            {**shared, "depth": question.depth, "answer": question.answers[0], **answer}
            for question, answer in zip(reading.questions, answers, strict=True)
        ]

    def _reading(self, variant: str, size: int, depths: Sequence[int], trial: int) -> PlantedText:
        drawn = "facts" if variant == "reworded" else variant  # the same facts in the same text
        draw = random.Random(f"{self.config.seed}/{drawn}/{size}/{list(depths)}/{trial}")
        if variant == "key_value":
            return dictionary_reading(self.tokenizer, number_pairs(self.tokenizer, size, draw), depths, draw, size)
        if variant == "uuid":
            return dictionary_reading(self.tokenizer, self._uuid_pairs(size, trial, draw), depths, draw)
        if variant in ("facts", "reworded"):
            return facts_reading(self.tokenizer, self._haystack, size, depths, draw, reworded=variant == "reworded")
        return haystack_reading(self.tokenizer, self._haystack, size, depths, draw, sentences=variant == "sentences")

    def _uuid_pairs(self, count: int, trial: int, draw: random.Random) -> list[tuple[str, str]]:
        """The dictionary of the trial's line in the file; drawn where there is no such file or line."""
        file = f"kv-retrieval-{count}_keys.jsonl.gz"
        if file not in self._dictionaries:
            local = self.data.has("lost_in_the_middle", file)
            self._dictionaries[file] = list(self.data.json_lines("lost_in_the_middle", file)) if local else []
        lines = self._dictionaries[file]
        return lines[trial]["ordered_kv_records"] if trial < len(lines) else uuid_pairs(count, draw)

    @cached_property
    def _dictionaries(self) -> dict[str, list[dict[str, Any]]]:
        return {}

    @cached_property
    def _haystack(self) -> Haystack:
        """Paul Graham's essays of the local folder, or WikiText by name."""
        name, file = "needle", "paul_graham_essays.jsonl.gz"
        if self.data.folder is not None:
            return Haystack(self.tokenizer, (row["text"] for row in self.data.json_lines(name, file)))
        rows = self.data.public("Salesforce/wikitext", "wikitext-103-raw-v1", split="test")
        return Haystack(self.tokenizer, ["".join(row["text"] for row in rows)])


def ask(method: Reader, tokenizer: Any, reading: PlantedText) -> list[Record]:
    """Let a method read, then ask all questions; of each what was written, and how likely its answers are.

    log_likelihoods: nats of each of `question.answers`, summed over tokens, the right one first. rank: 1 where the
    right one is the likeliest; a tie counts against it.
    """
    prompts = [text_tokens(tokenizer, question.prompt) for question in reading.questions]
    answers = [[text_tokens(tokenizer, q.before + answer) for answer in q.answers] for q in reading.questions]
    most = max(len(own[0]) for own in answers) + SPARE_TOKENS
    limit = method.max_stream_tokens
    if limit is not None and len(reading.tokens) + max(map(len, prompts)) + most > limit:
        return [{"fits": False} for _ in prompts]
    read_tokens(method, reading.tokens)
    written = greedy_tokens(method, prompts, most)
    scored = score_continuations(method, prompts, answers)
    return [
        _answer(question, tokenizer.decode(tokens[: len(own[0]) + SPARE_TOKENS]), score.log_likelihoods)
        for question, own, tokens, score in zip(reading.questions, answers, written, scored, strict=True)
    ]


def read_tokens(method: Reader, tokens: Sequence[int]) -> None:
    """Forget everything, then read tokens into memory row 0."""
    method.reset()
    method.read(torch.tensor([list(tokens)], device=method.device), memory_rows=torch.zeros(1, dtype=torch.long))


def _answer(question: PlantedQuestion, written: str, log_likelihoods: list[float]) -> Record:
    right, *others = log_likelihoods
    rank = 1 + sum(other >= right for other in others)
    return {
        "fits": True,
        "written": written,
        "correct": contains_answer(written, question.answers[0]),
        "rank": rank,
        "choice_correct": rank == 1,
        "nats": -right,
        "log_likelihoods": log_likelihoods,
    }


def _place(record: Record) -> tuple[int, int, int]:
    """Where a record stands in the table."""
    return VARIANTS.index(record["variant"]), record["length"], record["depth"]


def _rows(condition: dict[str, Any], records: Sequence[Record]) -> list[Row]:
    """The three metrics of records that share a condition."""
    count, chance = len(records), {"chance": 1 / (NUM_DISTRACTORS + 1)}
    exact = wilson_interval(sum(record["correct"] for record in records), count)
    among_ten = wilson_interval(sum(record["choice_correct"] for record in records), count)
    nats = bootstrap_interval([record["nats"] for record in records])
    return [
        Row(condition, "accuracy", *exact, count=count),
        Row(condition, "choice_accuracy", *among_ten, count=count, extra=chance),
        Row(condition, "nats", *nats, count=count, higher_is_better=False),
    ]
