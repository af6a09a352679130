"""Run: what training changes, shared by the parts of the loop."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ltm.training.learner import Inputs, Learner

from .config import TrainConfig
from .protocol import TrainableMethod, empty_memory, inputs_of
from .state import TrainState
from .stream import Batch, SegmentStream


@dataclass
class Run:
    """A method in training: its memory, what is trained of it, where the run is. streams: one for each stage."""

    method: TrainableMethod
    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    streams: Sequence[SegmentStream]
    learner: Learner
    config: TrainConfig
    state: TrainState = field(default_factory=TrainState)
    memory: Any = None

    @property
    def stream(self) -> SegmentStream:
        """What the present stage reads."""
        return self.streams[self.state.stage]

    @property
    def device(self) -> torch.device:
        return next(iter(self.parameters.values())).device

    def empty_memory(self) -> Any:
        """A memory for the rows of this process."""
        return empty_memory(self.method, self.config.batch_rows + self.learner.added_rows)

    def inputs(self, batch: Batch) -> Inputs:
        """What the method is called with to score a batch and remember it."""
        return inputs_of(self.method, batch, self.memory, self.device)

    def begin_stage(self) -> None:
        """Tell the learner, in a new stage or one that is resumed."""
        self.learner.begin(self.state.stage, self.method, self.parameters)
        if self.learner.inherited is not None:
            self.learner.load_state_dict(self.learner.inherited)
            self.learner.inherited = None

    def end_stage(self) -> None:
        """Tell the learner, with the stage's text from its start and a memory of its own for it."""
        kept, self.memory = self.memory, self.empty_memory()
        try:
            self.learner.end(self.state.stage, self.method, self._text_again())
        finally:
            self.memory = kept

    def _text_again(self) -> Iterator[Inputs]:
        stream = copy.copy(self.stream)
        stream.shard(self.accelerator.process_index, self.accelerator.num_processes)
        for batch in stream:
            yield self.inputs(batch)
