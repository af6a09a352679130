"""Memory in weights: reading is a few steps of learning on what is read, and what was learned is the memory.

Each memory row has weights of its own, which stand beside the frozen backbone's while a call runs (see `stand_in`):
rows of a batch use different ones, the backbone's bits never change, and forgetting gives back what was there before,
to the bit. A method says which modules it changes (`targets`) and how (`wrap`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ltm.backbone import Backbone
from ltm.backbone.turns import lock_of
from ltm.configs import WindowFields, stride_of
from ltm.errors import LtmError
from ltm.memory import Memory
from ltm.methods.loss import next_token_loss
from ltm.methods.parametric.stand_in import StandIn, standing_in
from ltm.methods.reader import Reader
from ltm.streams import Past, Stream, Window
from ltm.streams.segments import cut_into_segments
from ltm.streams.tensor_memory import TensorMemory, Tensors


@dataclass(frozen=True)
class ParametricFields(WindowFields):
    """What every method of this family can be told: which modules change, and how reading learns."""

    modules: str = "all"
    """Matrices that are changed: all, attention, mlp, or the backbone's own names with commas (q_proj,v_proj)."""
    segment_size: int = 256
    """Tokens learned from together; what came before a segment is not in sight."""
    read_steps: int = 2
    """Steps of learning on each segment; more remember it better, and what was read before it worse."""
    read_rate: float = 1e-3
    """Learning rate of AdamW while reading."""
    seed: int = 0
    """Of what is random in the weights before anything was read."""

    LEAST: ClassVar[Mapping[str, float]] = {"segment_size": 2, "read_steps": 1}

    def problems(self) -> list[str]:
        rate = [] if self.read_rate > 0 else [f"read_rate={self.read_rate}; use a rate above 0, such as 3e-4"]
        return [*super().problems(), *rate]

    @staticmethod
    def tiny_reading() -> dict[str, Any]:
        """Fields with which a few dozen tokens make a difference, for the contract tests."""
        return {"segment_size": 16, "read_steps": 2, "read_rate": 1e-2, "local_window": 12}


class Weights(TensorMemory):
    """What reading has changed: each row the weights that stand beside the backbone's, by their names in the model."""

    kind = "weights"


class Parametric(Reader):
    """Base of methods whose memory is weights. A method supplies `wrap`, and `targets` where a config's `modules` do
    not say all; `delta` where the change is one of a matrix.

    A `Trainer` teaches the weights that a row starts from.
    """

    memory_class: ClassVar[type[Memory]] = Weights

    def __init__(self, backbone: Backbone, config: Any):
        super().__init__(backbone, config)
        with lock_of(self.model), torch.random.fork_rng(devices=[]):  # no other thread's stand-ins are in its place
            torch.manual_seed(config.seed)
            self._stand_ins = [StandIn(name, module, self.wrap(module)) for name, module in self.targets().items()]
        start = {name: tensor for stand_in in self._stand_ins for name, tensor in stand_in.start.items()}
        self._start = nn.ParameterDict({_key(n): nn.Parameter(_leaf(t.to(backbone.device))) for n, t in start.items()})

    # what a method supplies

    def targets(self) -> dict[str, nn.Module]:
        """Modules of the backbone that are replaced, by their names in it."""
        return self.backbone.view.linears(self.method_config.modules)

    def wrap(self, module: nn.Module) -> nn.Module:
        """A module to stand in a target's place: it calls the target and has parameters of its own, with which it
        computes at first what the target does."""
        raise NotImplementedError

    def delta(self, wrapped: nn.Module) -> Tensor:
        """What a wrapped matrix adds to the target's weight, [out, in], or [in, out] for GPT-2's Conv1D."""
        raise LtmError(f"what {self.name} learns is no change of a matrix, and cannot be merged")

    # weights

    @property
    def start(self) -> dict[str, Tensor]:
        """The weights of a row that has read nothing, by name in the model."""
        return {_name(key): parameter for key, parameter in self._start.items()}

    def merged(self, weights: Tensors) -> dict[str, Tensor]:
        """The backbone's matrices with a row's weights added, by name: run them with `torch.func.functional_call`, at
        the backbone's own speed, or save them as a model of their own.

        >>> merged = model.merged(model.memory.rows[0])  # doctest: +SKIP
        >>> torch.func.functional_call(backbone.model, merged, (input_ids,))  # doctest: +SKIP
        """
        made = {}
        for stand_in in self._stand_ins:
            weight: Any = stand_in.base.weight
            delta = self.delta(stand_in.hold(weights))  # added in the wider of the two dtypes
            made[f"{stand_in.name}.weight"] = (weight + delta).to(weight.dtype)
        return made

    @contextmanager
    def installed(self, rows: Sequence[Tensors]) -> Iterator[None]:
        """Inside the block the backbone computes with these weights, one set for each row of the batch."""
        with standing_in(self.model, self._stand_ins, rows):
            yield

    def trained_state(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self.start.items()}

    def load_trained_state(self, state: dict[str, Tensor], source: str) -> None:
        own = self.start
        if wrong := sorted(set(own) ^ set(state)) or [name for name in own if own[name].shape != state[name].shape]:
            raise LtmError(f"{source} does not fit its own config: {', '.join(wrong[:3])}; train again")
        with torch.no_grad():
            for name, tensor in state.items():
                own[name].copy_(tensor)

    # memory

    def new_memory(self, rows: int = 0) -> Weights:
        return Weights(rows, self.backbone.fingerprint)

    def check_memory(self, memory: Weights) -> None:
        memory.check(self.backbone.fingerprint, {}, self.start)

    def check_unchanged(self, memory: Weights) -> None:
        memory.move(self.device)
        super().check_unchanged(memory)

    # one window

    def new_stream(self) -> Stream:
        config = self.method_config
        return Stream(config.local_window, stride_of(config.local_window, config.stride))

    def start_stream(self, stream: Stream | None, rows: Tensor, memory: Weights | None) -> Stream:
        """A stream that starts has weights of its own, which go on from what was read."""
        stream = super().start_stream(stream, rows, memory)
        if memory is not None:
            stream.carry("weights", lambda: memory.of(rows.tolist(), self.start))
        return stream

    def encode(self, window: Window) -> Tensor:
        with self.installed(self._weights_of(window)):
            return super().encode(window)

    def spill(self, row: int, token_ids: Tensor, columns: Tensor, stream: Stream) -> None:
        """What leaves the window is learned from, by weights that are the stream's own."""
        if stream.memory is not None:
            own = stream.carried["weights"]
            for segment in token_ids.split(self.method_config.segment_size):
                own[row] = self.learned(own[row], segment)

    def _weights_of(self, window: Window) -> list[Tensors]:
        """The stream's weights of each batch row."""
        if window.stream is None or "weights" not in window.stream.carried:
            return [self.start] * len(window.ids)
        return window.stream.carried["weights"]

    # reading is learning

    def take_in(self, past: Past, memory: Weights) -> None:
        memory.begin(len(past.ids))
        start = self.start
        for segment in cut_into_segments(past, self.method_config.segment_size):
            memory.rows[segment.row] = self.learned(memory.of([segment.row], start)[0], segment.token_ids)

    def score_and_read(self, past: Past, memory: Weights | None) -> Tensor:
        """Where the weights that rows start from are trained, the training step is the reading."""
        trains = self.training and torch.is_grad_enabled() and self.num_trainable
        return super().score_and_read(past, None if trains else memory)

    def learned(self, weights: Tensors, ids: Tensor) -> Tensors:
        """A row's weights after `read_steps` steps on tokens ids [tokens]."""
        if len(ids) < 2:
            return weights
        own = {name: _leaf(tensor) for name, tensor in weights.items()}
        optimizer = torch.optim.AdamW(own.values(), lr=self.method_config.read_rate, weight_decay=0.0)
        with torch.enable_grad():
            for _ in range(self.method_config.read_steps):
                optimizer.zero_grad()
                self.reading_loss(own, ids[None]).backward()
                optimizer.step()
        return {name: tensor.detach() for name, tensor in own.items()}

    def reading_loss(self, weights: Tensors, ids: Tensor) -> Tensor:
        """What a step of reading makes smaller, [] in nats: that of each next token of ids [1, tokens]."""
        with self.installed([weights]):
            logits = self.model(input_ids=ids, use_cache=False).logits
        return next_token_loss(logits, ids)


def widths(module: nn.Module) -> tuple[int, int]:
    """Channels that go into a matrix and that come out."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    assert isinstance(module, nn.Linear)
    return module.in_features, module.out_features


def _leaf(tensor: Tensor) -> Tensor:
    """A copy to be learned, in float32 at least: small steps are lost in bfloat16."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True).requires_grad_()


def _key(name: str) -> str:
    """A parameter's name as a ParameterDict takes it."""
    return name.replace(".", "/")


def _name(key: str) -> str:
    return key.replace("/", ".")
