"""Reading comprehension on SQuAD 1.1: three solved questions in the prompt, with and without others remembered.

Half of the articles of the development set give demonstrations, the other half questions, so that nothing that was
read or shown is about what is asked. A demonstration is

    Passage: ...
    Question: ...
    Answer: ...

with an empty line between two; the question comes last in the same form, up to "Answer:". The answer is what the
method writes greedily to the end of its line, scored by the exact match and F1 of the SQuAD v1.1 evaluation script.
LongMem's released code has no such task; format and protocol are ours. Long passages are left out instead of cut,
since a cut would have to know where the answer is: demonstrations have passages of at most `demonstration_tokens`
(half of all), questions of at most `passage_tokens` (19 of 20), so that three demonstrations, question and answer
fit a window of 1,024 tokens.
"""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from ltm.errors import ConfigError, LtmError
from ltm.tasks.base import Record, Row, Task, Unit
from ltm.tasks.comma_lists import numbers
from ltm.tasks.demonstrations import read_demonstrations
from ltm.tasks.intervals import seeds_interval
from ltm.tasks.registry import register
from ltm.tasks.scoring import greedy_tokens, start_tokens, text_tokens

if TYPE_CHECKING:
    from ltm.methods import Reader
    from ltm.tasks.data import DataSource

SEPARATOR = "\n\n"
METRICS = ("exact_match", "f1")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class ReadingConfig:
    """How many demonstrations where, how many questions. Raises ConfigError with every problem together."""

    shots: int = 3
    """Demonstrations in the prompt."""
    remembered: str = "0,200"
    """Demonstrations read before, one or more counts with commas."""
    seeds: int = 3
    """Draws of demonstrations; the table's intervals are over them."""
    examples: int | None = 200
    """Questions, the same for every seed and method; None: all of the articles that are asked about."""
    demonstration_tokens: int = 160
    """Longest passage of a demonstration; longer ones leave the window to fewer shots."""
    passage_tokens: int | None = 300
    """Longest passage that is asked about; None: any."""
    max_new_tokens: int = 24
    """Most tokens of an answer; 99% of the answers have 21 or fewer."""
    batch_size: int = 16
    """Most prompts in one forward; more is faster and needs more memory."""

    def __post_init__(self) -> None:
        numbers(self.remembered)
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "remembered"}
        least = {"shots": 0}
        problems = [
            f"{name}={value}; use {least.get(name, 1)} or more"
            for name, value in values.items()
            if value is not None and value < least.get(name, 1)
        ]
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class Question:
    """A question on a passage of an article, and its right answers."""

    id: str
    title: str
    passage: str
    question: str
    answers: tuple[str, ...]

    @property
    def prompt(self) -> str:
        """Everything before the answer."""
        return f"Passage: {self.passage}\nQuestion: {self.question}\nAnswer:"

    @property
    def demonstration(self) -> str:
        """The question with its first answer."""
        return f"{self.prompt} {self.answers[0]}"


@register("reading")
class Reading(Task):
    """See the module's text and `ReadingConfig`."""

    config_class = ReadingConfig
    source = "Rajpurkar et al., 2016, arXiv:1606.05250: SQuAD 1.1, development set"

    config: ReadingConfig

    def units(self) -> Iterator[Unit]:
        """Seed by seed, each with every count of remembered demonstrations; fewer first."""
        for seed in range(1, self.config.seeds + 1):
            for remembered in numbers(self.config.remembered):
                cost = (remembered + self.config.shots) * self._mean_tokens(self._pool)
                yield Unit(
                    key=f"shots={self.config.shots}/remembered={remembered}/seed={seed}",
                    cost=round(cost + len(self._asked) * self._mean_tokens(self._asked)),
                    run=partial(self._run, remembered, seed),
                )

    def summarise(self, records: Sequence[Record]) -> list[Row]:
        """Exact match and F1 in 0..1 of each count over seeds; of one seed: over questions."""
        rows = []
        for metric in METRICS:
            for remembered in numbers(self.config.remembered):
                chosen = [record for record in records if record["remembered"] == remembered]
                if chosen:
                    rows.append(_row(chosen, metric, {"shots": self.config.shots, "remembered": remembered}))
        return rows

    def _run(self, remembered: int, seed: int, method: Reader) -> list[Record]:
        """Read what is remembered, then let the method answer every question."""
        shown, kept = self._draw(remembered, seed)
        prompts = self._prompts(shown, follows=remembered > 0)
        method.reset()
        texts = [question.demonstration for question in kept]
        reserved = max(map(len, prompts)) + self.config.max_new_tokens
        num_read = read_demonstrations(method, self.tokenizer, texts, SEPARATOR, reserved)
        written = greedy_tokens(
            method, prompts, self.config.max_new_tokens, stop=self._stop_tokens(), batch_size=self.config.batch_size
        )
        condition = {"shots": self.config.shots, "remembered": remembered, "read": num_read, "seed": seed}
        return [
            {**condition, **_record(question, self._answer(tokens))}
            for question, tokens in zip(self._asked, written, strict=True)
        ]

    def _draw(self, remembered: int, seed: int) -> tuple[list[Question], list[Question]]:
        """Demonstrations for the prompt and others for memory; the prompt's depend on the seed alone."""
        shots = self.config.shots
        if shots + remembered > len(self._pool):
            raise LtmError(
                f"there are {len(self._pool)} passages for demonstrations, but {shots} + {remembered} were asked for; "
                "use fewer, or a larger demonstration_tokens"
            )
        order = random.Random(f"reading:{seed}").sample(self._pool, len(self._pool))
        return order[:shots], order[len(order) - remembered :]

    def _prompts(self, shown: Sequence[Question], follows: bool) -> list[list[int]]:
        """Demonstrations and each question; `follows`: something was read, so that an empty line comes first."""
        before = "".join(SEPARATOR + question.demonstration for question in shown)
        beginning = before if follows else before.removeprefix(SEPARATOR)
        shared = start_tokens(self.tokenizer) + text_tokens(self.tokenizer, beginning)
        gap = SEPARATOR if follows or shown else ""
        return [shared + text_tokens(self.tokenizer, gap + question.prompt) for question in self._asked]

    def _answer(self, tokens: Sequence[int]) -> str:
        """What was written, to the end of its line."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True).split("\n")[0].strip()

    def _stop_tokens(self) -> set[int]:
        """The tokens of one and two line ends, and the end of a text."""
        ends = {text_tokens(self.tokenizer, f"a{end}")[-1] for end in ("\n", "\n\n")}
        return ends | ({self.tokenizer.eos_token_id} - {None})

    @cached_property
    def _questions(self) -> tuple[list[Question], list[Question]]:
        return split_by_title(load_questions(self.data))

    @cached_property
    def _pool(self) -> list[Question]:
        """One question for each passage that is short enough for a demonstration."""
        questions = self._questions[0]
        shuffled = random.Random("reading:pool").sample(questions, len(questions))
        by_passage = {question.passage: question for question in shuffled}
        return self._short(sorted(by_passage.values(), key=_by_id), self.config.demonstration_tokens)

    @cached_property
    def _asked(self) -> list[Question]:
        """The questions of every unit."""
        questions, examples = self._short(self._questions[1], self.config.passage_tokens), self.config.examples
        if examples is None or examples >= len(questions):
            return questions
        return sorted(random.Random("reading:asked").sample(questions, examples), key=_by_id)

    def _short(self, questions: Sequence[Question], most_tokens: int | None) -> list[Question]:
        """Those on passages of at most so many tokens."""
        passages = {question.passage for question in questions}
        lengths = {passage: len(text_tokens(self.tokenizer, passage)) for passage in passages}
        return [q for q in questions if most_tokens is None or lengths[q.passage] <= most_tokens]

    def _mean_tokens(self, questions: Sequence[Question]) -> float:
        """Tokens of a demonstration, from the first hundred."""
        lengths = [len(text_tokens(self.tokenizer, question.demonstration)) for question in questions[:100]]
        return sum(lengths) / max(len(lengths), 1)


def exact_match(prediction: str, answers: Sequence[str]) -> bool:
    """Whether a prediction is one of the answers, up to case, ASCII punctuation, articles and spaces."""
    return any(normalize_answer(prediction) == normalize_answer(answer) for answer in answers)


def f1(prediction: str, answers: Sequence[str]) -> float:
    """The best F1 over the answers, of words that prediction and answer share, each as often as in both.

    As in SQuAD v1.1 a prediction without words has 0, even where the answer has none either.
    """
    return max(_f1_of(normalize_answer(prediction).split(), normalize_answer(answer).split()) for answer in answers)


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, then without a, an and the, words one space apart."""
    without_punctuation = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", without_punctuation).split())


def split_by_title(questions: Sequence[Question]) -> tuple[list[Question], list[Question]]:
    """Questions of one half of the articles, for demonstrations, and of the other half, to be asked."""
    titles = sorted({question.title for question in questions})
    random.Random("reading:titles").shuffle(titles)
    shown = set(titles[: len(titles) // 2])
    return [q for q in questions if q.title in shown], [q for q in questions if q.title not in shown]


def load_questions(data: DataSource) -> list[Question]:
    """The development set: squad/dev-v1.1.jsonl.gz of the local folder, or by name."""
    if data.folder is not None:
        rows: list[dict[str, Any]] = list(data.json_lines("squad", "dev-v1.1.jsonl.gz"))
        answers = [[answer["text"] for answer in row["answers"]] for row in rows]
    else:
        rows = list(data.public("rajpurkar/squad", split="validation"))
        answers = [row["answers"]["text"] for row in rows]
    return [
        Question(row["id"], row["title"], _one_line(row["context"]), _one_line(row["question"]), tuple(own))
        for row, own in zip(rows, answers, strict=True)
    ]


def _one_line(text: str) -> str:
    """A line end would end a part of the prompt."""
    return " ".join(text.split())


def _by_id(question: Question) -> str:
    return question.id


def _f1_of(predicted: list[str], answer: list[str]) -> float:
    shared = sum((Counter(predicted) & Counter(answer)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(answer)
    return 2 * precision * recall / (precision + recall)


def _record(question: Question, prediction: str) -> Record:
    return {
        "example": question.id,
        "title": question.title,
        "prediction": prediction,
        "gold": list(dict.fromkeys(question.answers)),
        "exact_match": exact_match(prediction, question.answers),
        "f1": f1(prediction, question.answers),
    }


def _row(records: Sequence[Record], metric: str, condition: dict[str, Any]) -> Row:
    by_seed: dict[int, list[float]] = {}
    for record in records:
        by_seed.setdefault(record["seed"], []).append(float(record[metric]))
    extra = {"seeds": len(by_seed), "read": min(record["read"] for record in records)}
    return Row(condition, metric, *seeds_interval(list(by_seed.values())), count=len(records), extra=extra)
