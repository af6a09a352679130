"""In-context learning with remembered demonstrations: a few in the prompt, up to thousands in memory.

Wang et al., 2023, §3.4: labelled examples are written as text ("Review: ... Sentiment: positive."); `local` of them
stand before the question in the prompt, `remembered` others were read before. As in the released evaluation, they are
drawn from the training split at random and not balanced over labels, with the seeds 1 to 6; SST-2 and SST-5 are
tested on validation, the others on test; texts and label words are the same.

Two scores come from the same forward. `argmax`: the likeliest next token, without spaces, is not empty and begins the
right label (the released rule: a model that says something else is wrong). `likelihood`: the right label is the
likeliest of the labels, summed over its tokens.

What differs from the released evaluation: what is remembered never repeats what stands in the prompt (there both are
drawn apart and may overlap); a training text that also occurs in the test split, or earlier in the training split, is
left out (of MPQA 25% of the texts, of the others next to none); no begin and end tokens stand between
demonstrations; the last, incomplete segment of what is remembered is read as well; by default 200 test examples, the
same for every method and seed, are drawn of each set. TREC is no set of the paper: its format and label words are
ours.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from ltm.errors import ConfigError, LtmError
from ltm.tasks.base import Record, Row, Task, Unit
from ltm.tasks.comma_lists import numbers, words
from ltm.tasks.demonstrations import read_demonstrations
from ltm.tasks.intervals import Interval, seeds_interval, t_interval
from ltm.tasks.registry import register
from ltm.tasks.scoring import BATCH_SIZE, PromptScore, score_continuations, start_tokens, text_tokens

if TYPE_CHECKING:
    from ltm.methods import Reader
    from ltm.tasks.data import DataSource

METRICS = ("argmax", "likelihood")


@dataclass(frozen=True)
class PublicSet:
    """Where a set is found by name: its path, the columns of text and label, the label word of each value."""

    path: str
    labels: dict[Any, str]
    label_column: str = "label"


@dataclass(frozen=True)
class LabelledSet:
    """A classification set: how an example is written (text, then label), its labels, the split it is tested on."""

    template: str
    labels: tuple[str, ...]
    test_split: str
    public: PublicSet

    def demonstration(self, example: Example) -> str:
        """A solved example."""
        return self.template.format(example.text, example.label)

    def question(self, example: Example) -> str:
        """The same up to where the label would come, after a space."""
        return self.template[: self.template.rindex(" {}")].format(example.text)


@dataclass(frozen=True)
class Example:
    """One labelled text; id: split and place in it."""

    id: str
    text: str
    label: str


REVIEW, INPUT, QUESTION = "Review: {} Sentiment: {}.", "Input: {} Type: {}.", "Question: {} Type: {}."
POLARITY = {0: "negative", 1: "positive"}
STARS = dict(enumerate(("terrible", "bad", "okay", "good", "great")))
SUBJECTIVITY = {0: "objective", 1: "subjective"}
TREC = {
    "ABBR": "abbreviation",
    "DESC": "description",
    "ENTY": "entity",
    "HUM": "human",
    "LOC": "location",
    "NUM": "number",
}


def _set(template: str, test_split: str, path: str, labels: dict[Any, str], **columns: str) -> LabelledSet:
    return LabelledSet(template, tuple(labels.values()), test_split, PublicSet(path, labels, **columns))


DATASETS = {
    "sst2": _set(REVIEW, "validation", "SetFit/sst2", POLARITY),
    "sst5": _set(REVIEW, "validation", "SetFit/sst5", STARS),
    "mr": _set(REVIEW, "test", "cornell-movie-review-data/rotten_tomatoes", POLARITY),  # split otherwise than LongMem's
    "subj": _set(INPUT, "test", "SetFit/subj", SUBJECTIVITY),
    "mpqa": _set(REVIEW, "test", "jxm/mpqa", POLARITY),
    "trec": _set(QUESTION, "test", "SetFit/TREC-QC", TREC, label_column="label_coarse_original"),
}


@dataclass(frozen=True)
class InContextConfig:
    """Which sets, how many demonstrations where, how often. Raises ConfigError with every problem together."""

    datasets: str = "sst2,sst5,mr,subj,mpqa"
    """Sets to test, with commas: sst2, sst5, mr, subj, mpqa (the paper's), trec."""
    local: str = "4,20"
    """Demonstrations in the prompt, one or more counts with commas."""
    remembered: str = "0,200,2000"
    """Demonstrations read before, one or more counts with commas."""
    seeds: int = 6
    """Draws of demonstrations; the table's intervals are over them."""
    examples: int | None = 200
    """Test examples of each set, the same for every seed and method; None: the whole split."""
    batch_size: int = BATCH_SIZE
    """Most prompts in one forward; more is faster and needs more memory."""

    def __post_init__(self) -> None:
        numbers(self.local), numbers(self.remembered)
        unknown = [name for name in words(self.datasets) if name not in DATASETS]
        problems = [f"datasets={','.join(unknown)}; known: {', '.join(DATASETS)}"] if unknown else []
        problems += ["datasets is empty; name one or more"] if not words(self.datasets) else []
        counts = {"seeds": self.seeds, "batch_size": self.batch_size, "examples": self.examples}
        problems += [
            f"{name}={value}; use 1 or more" for name, value in counts.items() if value is not None and value < 1
        ]
        if problems:
            raise ConfigError(problems)


@dataclass
class Drawn:
    """What a set offers: the training texts that may be shown, and the test examples.

    >>> set.draw(seed=1, local=4, remembered=200)  # doctest: +SKIP
    """

    name: str
    pool: list[Example] = field(repr=False)
    test: list[Example] = field(repr=False)

    def draw(self, seed: int, local: int, remembered: int) -> tuple[list[Example], list[Example]]:
        """Demonstrations for the prompt and others for memory.

        Each depends on its own count and the seed alone: 20 in the prompt begin with the 4 of the same seed, and
        2,000 in memory end with the same 200, so that conditions differ in nothing else.
        """
        if local + remembered > len(self.pool):
            raise LtmError(
                f"{self.name} has {len(self.pool)} training texts for demonstrations, but {local} + {remembered} "
                "were asked for; use fewer"
            )
        order = random.Random(f"{self.name}:{seed}").sample(self.pool, len(self.pool))
        return order[:local], order[len(order) - remembered :]


@register("in_context")
class InContext(Task):
    """See the module's text, `InContextConfig` and `DATASETS`."""

    config_class = InContextConfig
    source = "Wang et al., 2023, arXiv:2306.07174, §3.4: SST-2, SST-5, MR, Subj, MPQA"

    config: InContextConfig

    def units(self) -> Iterator[Unit]:
        """Seed by seed, each with every condition; fewer remembered first."""
        for seed in range(1, self.config.seeds + 1):
            for remembered in numbers(self.config.remembered):
                for name in words(self.config.datasets):
                    yield self._unit(name, remembered, seed)

    def summarise(self, records: Sequence[Record]) -> list[Row]:
        """Accuracy of each set and condition over seeds, then the mean of the sets; of one seed: over examples."""
        conditions = [(lo, re) for re in numbers(self.config.remembered) for lo in numbers(self.config.local)]
        rows = []
        for metric in METRICS:
            for local, remembered in conditions:
                chosen = [r for r in records if (r["local"], r["remembered"]) == (local, remembered)]
                rows += self._rows(chosen, metric, {"local": local, "remembered": remembered})
        return rows

    def _unit(self, name: str, remembered: int, seed: int) -> Unit:
        asked = sum(local + len(self._sets[name].test) for local in numbers(self.config.local))
        return Unit(
            key=f"{name}/remembered={remembered}/seed={seed}",
            cost=round((remembered + asked) * self._tokens_each[name]),
            run=partial(self._run, name, remembered, seed),
        )

    def _run(self, name: str, remembered: int, seed: int, method: Reader) -> list[Record]:
        """Read what is remembered once, then score all test examples with each count of demonstrations before them."""
        drawn, form = self._sets[name], DATASETS[name]
        counts = numbers(self.config.local)
        draws = {local: drawn.draw(seed, local, remembered) for local in counts}
        labels = [text_tokens(self.tokenizer, f" {label}") for label in form.labels]
        prompts = {
            local: self._prompts(form, shown, drawn.test, follows=remembered > 0) for local, (shown, _) in draws.items()
        }
        reserved = max(len(prompt) for own in prompts.values() for prompt in own) + max(map(len, labels))
        method.reset()
        texts = [form.demonstration(example) for example in draws[counts[0]][1]]
        num_read = read_demonstrations(method, self.tokenizer, texts, " ", reserved)
        records = []
        for local, own in prompts.items():
            scored = score_continuations(method, own, [labels] * len(own), batch_size=self.config.batch_size)
            condition = {"dataset": name, "local": local, "remembered": remembered, "read": num_read, "seed": seed}
            records += [
                {**condition, **self._record(form, example, result)}
                for example, result in zip(drawn.test, scored, strict=True)
            ]
        return records

    def _prompts(
        self, form: LabelledSet, shown: Sequence[Example], test: Sequence[Example], follows: bool
    ) -> list[list[int]]:
        """Demonstrations and question of each test example; `follows`: something was read, so that a space comes."""
        before = " ".join(map(form.demonstration, shown))
        beginning = start_tokens(self.tokenizer) + text_tokens(self.tokenizer, f" {before}" if follows else before)
        space = " " if follows or shown else ""
        return [beginning + text_tokens(self.tokenizer, space + form.question(example)) for example in test]

    def _record(self, form: LabelledSet, example: Example, scored: PromptScore) -> Record:
        said, best = self.tokenizer.decode([scored.next_token]).strip(), form.labels[scored.best]
        return {
            "example": example.id,
            "gold": example.label,
            "argmax": said,
            "argmax_correct": begins(said, example.label),
            "likelihood": best,
            "likelihood_correct": best == example.label,
        }

    def _rows(self, records: Sequence[Record], metric: str, condition: dict[str, Any]) -> list[Row]:
        """A row for each set that has records of this condition, and the average where all sets have."""
        names, rows = words(self.config.datasets), []
        by_name: dict[str, dict[int, list[float]]] = {name: {} for name in names}
        for record in records:
            seeds = by_name[record["dataset"]]
            seeds.setdefault(record["seed"], []).append(float(record[f"{metric}_correct"]))
        for name, seeds in by_name.items():
            if seeds:
                own = [record for record in records if record["dataset"] == name]
                rows.append(_row(own, metric, {"dataset": name, **condition}, seeds_interval(list(seeds.values()))))
        common = sorted(set.intersection(*(set(seeds) for seeds in by_name.values())))
        if len(names) > 1 and common:
            averages = [_mean([_mean(seeds[seed]) for seeds in by_name.values()]) for seed in common]
            own = [record for record in records if record["seed"] in common]
            rows.append(_row(own, metric, {"dataset": "average", **condition}, t_interval(averages)))
        return rows

    @cached_property
    def _sets(self) -> dict[str, Drawn]:
        return {name: load_set(name, self.data, self.config.examples) for name in words(self.config.datasets)}

    @cached_property
    def _tokens_each(self) -> dict[str, float]:
        """Tokens of a demonstration of each set, from the first hundred."""
        texts = {name: list(map(DATASETS[name].demonstration, drawn.pool[:100])) for name, drawn in self._sets.items()}
        return {name: _mean([len(text_tokens(self.tokenizer, text)) for text in own]) for name, own in texts.items()}


def begins(said: str, label: str) -> bool:
    """Whether what was said, not empty, is the beginning of the label."""
    return said != "" and label.startswith(said)


def load_set(name: str, data: DataSource, examples: int | None) -> Drawn:
    """A set without leaks: no text of its test split, and no text twice, among the demonstrations.

    examples: how many of the test split are drawn (the same at every call), None for all.
    """
    form = DATASETS[name]
    train, test = (_examples(name, data, split) for split in ("train", form.test_split))
    seen, pool = {_plain(example.text) for example in test}, []
    for example in train:
        if _plain(example.text) not in seen:
            seen.add(_plain(example.text))
            pool.append(example)
    if examples is not None and examples < len(test):
        places = sorted(random.Random(f"{name}:test").sample(range(len(test)), examples))
        test = [test[place] for place in places]
    return Drawn(name, pool, test)


def _examples(name: str, data: DataSource, split: str) -> list[Example]:
    """The examples of a split in their order: from icl/NAME.csv.gz of the local folder, or by name."""
    form = DATASETS[name]
    if data.folder is not None:
        found = [(row["text"], row["label"]) for row in data.csv_rows("icl", f"{name}.csv.gz") if row["split"] == split]
    else:
        public = form.public
        rows = data.public(public.path, split=split)
        found = [(row["text"], public.labels[row[public.label_column]]) for row in rows]
    unknown = {label for _, label in found} - set(form.labels)
    if unknown or not found:
        raise LtmError(f"{name}, split {split}: {len(found)} examples with labels {sorted(unknown)} that are not known")
    return [Example(f"{split}/{place}", text.strip(), label) for place, (text, label) in enumerate(found)]


def _plain(text: str) -> str:
    """A text without the differences that do not make it another: case and spaces."""
    return " ".join(text.casefold().split())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _row(records: Sequence[Record], metric: str, condition: dict[str, Any], interval: Interval) -> Row:
    extra = {
        "seeds": len({record["seed"] for record in records}),
        "read": min(record["read"] for record in records),
    }
    mean, low, high = interval
    if low is not None and high is not None:  # of few draws Student's t reaches beyond what a share can be
        low, high = max(low, 0.0), min(high, 1.0)
    return Row(condition, f"{metric}_accuracy", mean, low, high, count=len(records), extra=extra)
