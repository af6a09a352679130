"""What a benchmark is: units of work that give records, and a summary of the records.

A *unit* is the smallest piece that is run whole: `ltm.bench` runs units one after another for every method, writes
each unit's records down when it is done, and goes on after a stop with the units that are missing. A *record* is one
measured thing (an example, a document) as plain JSON values. A *row* is a line of the summary: records that share a
condition, as a mean with an interval. Tasks speak to methods through their verbs alone and hold no caches: those that
speak tokens through `read`, `generate` and `stream` of a method; those that speak text through `read`, `ask_all` and
`answer_likelihoods` of a session, which `ltm.bench` opens on the method (`Speaker`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from ltm.tasks.data import DataSource

Record = dict[str, Any]
"""Plain JSON values: what was measured of one example, with everything that tells it from others."""


class Speaker(Protocol):
    """What a task that speaks text is handed: a memory that reads texts and is asked in text (`ltm.text.Session`)."""

    @property
    def window(self) -> int | None:
        """Tokens that stand before the model's eyes at once; None: no limit."""

    @property
    def capacity(self) -> int | None:
        """Tokens that can be read and asked about in all; None: no limit, older ones may be forgotten."""

    @property
    def recall_modes(self) -> Sequence[str]:
        """What of the past an answer can have, of both, text, memory and off, without two that are the same."""

    def reset(self) -> None:
        """Forget everything that was read."""

    def read(self, text: str, name: str) -> Any:
        """Take a text in as the document `name`."""

    def ask_all(self, questions: Sequence[str], *, given: Sequence[Sequence[str]] | None = None, **how: Any) -> list:
        """An answer for each question, each asked alone, with text, found, confidence and what it cost; given:
        passages that stand before each in place of those that are looked up; how: recall, instruction and others."""

    def answer_likelihoods(
        self, question: str, answers: Sequence[str], *, given: Sequence[str] | None = None, **how: Any
    ) -> list[float]:
        """Nats of each answer as the reply to a question."""


@dataclass(frozen=True)
class Unit:
    """A piece of work that is run whole.

    key: unique in its task and the same in every run with the same configuration; cost: tokens that the method has to
    take in, for the time left; run: the records of this unit under a method (of a task that speaks text: under a
    session, a `Speaker`), which it resets first.
    """

    key: str
    cost: int
    run: Callable[[Any], list[Record]]


@dataclass(frozen=True)
class Row:
    """A line of a summary.

    condition: what the records share, in the order in which tables show it ({"kind": "books", "length": 4096});
    metric: what was averaged ("perplexity", "accuracy", ...); value with its 95% interval low..high (None: not
    known); count: records behind it; higher_is_better says which way is good.
    """

    condition: dict[str, Any]
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    count: int = 0
    higher_is_better: bool = True
    extra: dict[str, Any] = field(default_factory=dict)


class Task(ABC):
    """A benchmark. Subclasses register with `ltm.tasks.registry.register(name)`.

    config: the task's frozen dataclass (a help sentence below each field, as a method's config has); data: where files
    and public data sets come from; tokenizer: the backbone's.
    """

    name: ClassVar[str]
    config_class: ClassVar[type]
    source: ClassVar[str]
    """Paper and data set, one line."""
    speaks: ClassVar[Literal["tokens", "text"]] = "tokens"
    """How it speaks to methods. A method of tokens is asked in text through a session; one of text cannot be asked for
    logits, and is not measured by a task of tokens."""
    full_stride: ClassVar[bool] = False
    """Whether all of a full window leaves it, where no other stride is asked for."""

    def __init__(self, config: Any, data: DataSource, tokenizer: Any):
        self.config, self.data, self.tokenizer = config, data, tokenizer

    @abstractmethod
    def units(self) -> Iterable[Unit]:
        """All work, in an order in which a stopped run is already worth looking at."""

    @abstractmethod
    def summarise(self, records: Sequence[Record]) -> list[Row]:
        """The table of one method's records (of all units, or of those that are done)."""
