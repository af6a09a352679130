"""Learner: how weights that are trained on one thing after another keep what they knew.

A `Trainer` calls it at fixed places and knows no strategy; a strategy fills in what it needs. This class itself is
training without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

if TYPE_CHECKING:
    from ltm.registry import Card
    from ltm.training.protocol import TrainableMethod
    from ltm.training.stream import Batch

Inputs = dict[str, Any]
"""What a method is called with to score a batch and remember it: input_ids, attention_mask, labels, memory, ..."""


class Learner:
    """Base of every strategy; each hook does nothing by default, so that training with it is plain training.

    config: the strategy's frozen dataclass, with `off()` (plain training) and `tiny()`, which the contract's tests use.
    In each stage (one stream of text) the Trainer calls

        begin                                    once, also when a run goes on in the middle of a stage
        batch, before, loss    for each batch:   what is scored; just before it is scored; what is back-propagated
        gradients              for each step:    when they are summed over batches and processes, not yet clipped
        end                                      once, in eval mode, without an effect on memory or random numbers

    All processes of a run call the same hooks; each has a learner of its own, which is part of every checkpoint.

    >>> class Freeze(Learner):
    ...     def gradients(self, parameters):
    ...         parameters["embedding"].grad = None
    """

    name: ClassVar[str] = "plain"
    config_class: ClassVar[type]
    card: ClassVar[Card]
    added_rows: int = 0
    """Rows that `batch` adds below those of the stream; the run's memory has as many more."""

    def __init__(self, config: Any = None):
        self.config = config
        self.inherited: Mapping[str, Tensor] | None = None  # by an earlier run, taken in when the first stage begins

    def begin(self, stage: int, method: TrainableMethod, parameters: Mapping[str, nn.Parameter]) -> None:
        """A stage (from 0) begins; parameters: what is trained, by name. A state is loaded after it."""

    def batch(self, batch: Batch) -> Batch:
        """The batch to train on instead of this one: with replayed rows, say."""
        return batch

    def before(self, method: TrainableMethod, inputs: Inputs) -> None:
        """Called before inputs are scored, with the memory as scoring will find it: what a teacher says of them."""

    def loss(self, method: TrainableMethod, inputs: Inputs, output: Any) -> Tensor:
        """What is back-propagated, for a batch: output.loss, the mean over scored tokens, and what a strategy adds.

        Batches of a step are weighted by their shares of its scored tokens, so an added penalty counts once a step.
        """
        loss: Tensor = output.loss
        return loss

    def gradients(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Change the gradients of a step in place; None leaves a parameter as it is, weight decay and momentum too."""

    def end(self, stage: int, method: TrainableMethod, batches: Iterator[Inputs]) -> None:
        """A stage is over. batches: its text from the start, without end; to be scored by `method(**inputs)` before
        the next is taken."""

    def describe(self) -> dict[str, Any]:
        """The config's fields by name, for the record of a run."""
        return {} if self.config is None else asdict(self.config)

    def state_dict(self) -> dict[str, Tensor]:
        """All that must be kept to go on, by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take in what `state_dict` gave; tensors come on the CPU."""
