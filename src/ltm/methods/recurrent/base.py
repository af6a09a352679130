"""Recurrent memory: a state of fixed size, carried from segment to segment.

What was read is a few tensors a row, however long it was. A segment is a window's worth of tokens: when a window is
full, the tokens that leave it are taken into the stream's own state, and the next window starts from there, so that
scoring whole, in pieces and token by token is the same. Reading does it segment by segment, training with a gradient
that flows through as many segments as the trainer keeps (`backprop_segments`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, ClassVar

import torch
from torch import Tensor

from ltm.attention import attach
from ltm.compat import cache_argument
from ltm.configs import WindowFields
from ltm.memory import Memory
from ltm.methods.reader import Reader
from ltm.methods.recurrent.mixer import Mixer, Mixing, initial_states
from ltm.streams import Past, Stream, Window
from ltm.streams.masks import window_positions
from ltm.streams.segments import READ_BATCH_TOKENS, Segment, batches_of, cut_into_segments, pad_segments
from ltm.streams.tensor_memory import TensorMemory

States = Mapping[str, Tensor]
"""Tensors of a state by name, [batch, ...] each."""


@dataclass(frozen=True)
class SegmentFields(WindowFields):
    """What every method of this family can be told."""

    local_window: int = 128
    """Tokens of a segment: most that attention sees beside the state."""
    stride: int | None = None
    """Tokens that leave when the window is full, and are taken into the state; None: all, as in the papers."""

    @property
    def segment_size(self) -> int:
        """Tokens that are taken into the state together."""
        return self.stride or self.local_window


class State(TensorMemory):
    """A recurrent state: each row a few tensors, as many after a book as after a line."""

    kind = "state"


class Recurrent(Reader):
    """Base of methods that carry a state. A method supplies `initial` and `update`, and `prefix` where the state is
    read as embeddings before a segment; or `mixers`, whose states are updated as tokens run through them."""

    memory_class: ClassVar[type[Memory]] = State

    # what a method supplies; states are tensors by name, [batch, ...] each

    def initial(self) -> dict[str, Tensor]:
        """The state of one row that has read nothing, without the batch's axis; a gradient reaches what is learned."""
        return {}

    def mixers(self) -> Mapping[int, Mixer]:
        """What runs in the place of layers' attention, by layer."""
        return {}

    def prefix(self, state: States) -> Tensor | None:
        """Embeddings [batch, tokens, hidden_size] that stand before a segment's first token; None: nothing does."""
        return None

    def update(self, state: States, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The state after a segment, ids int64 [batch, tokens], mask bool [batch, tokens], False = padding."""
        return self.step(state, ids, mask)[1]

    def step(self, state: States, ids: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """A segment's logits [batch, tokens, vocab] and the state after it."""
        rows = torch.arange(len(ids), device=ids.device)
        return self._run(Window(ids, mask, None, rows), state)

    # memory

    @property
    def start(self) -> dict[str, Tensor]:
        """The state of one row that has read nothing, the mixers' with it."""
        return {**self.initial(), **initial_states(self.mixers())}

    def new_memory(self, rows: int = 0) -> State:
        return State(rows, self.backbone.fingerprint, self.memory_facts)

    @property
    def memory_facts(self) -> dict[str, Any]:
        """What a saved state is worth nothing without, beside the backbone: who made it, trained how."""
        return {"method": self.name, "trained": tensors_digest(self.trained_state())}

    def check_memory(self, memory: State) -> None:
        memory.check(self.backbone.fingerprint, self.memory_facts, self.start)

    def check_unchanged(self, memory: State) -> None:
        memory.move(self.device)
        super().check_unchanged(memory)

    # reading

    def take_in(self, past: Past, memory: State) -> None:
        memory.begin(len(past.ids))
        for batch in self._batches(past):
            ids, mask = pad_segments(batch)
            rows = [segment.row for segment in batch]
            memory.put(rows, self.update(memory.stacked(rows, self.start), ids, mask))

    def _batches(self, past: Past) -> Iterator[list[Segment]]:
        """Segments of different rows that are read together: the first of each, then the second, and on."""
        queues: dict[int, list[Segment]] = {}
        for segment in cut_into_segments(past, self.method_config.segment_size):
            queues.setdefault(segment.row, []).append(segment)
        for together in zip_longest(*queues.values()):
            yield from batches_of((segment for segment in together if segment is not None), READ_BATCH_TOKENS)

    def score_and_read(self, past: Past, memory: State | None) -> Tensor:
        """Segment by segment: scored with the state before it, then taken into it; a gradient goes through both."""
        if memory is None:
            return super().score_and_read(past, None)
        memory.begin(len(past.ids))
        if torch.is_grad_enabled() and self.num_trainable:
            memory.facts["trained"] = None  # what wrote it changes with every step
        size, rows, pieces = self.method_config.segment_size, past.rows.tolist(), []
        for ids, mask in zip(past.ids.split(size, dim=1), past.mask.split(size, dim=1), strict=True):
            logits, after = self.step(memory.stacked(rows, self.start), ids, mask)
            pieces.append(logits)
            moved = [index for index, valid in enumerate(mask.any(dim=1).tolist()) if valid]
            memory.put([rows[index] for index in moved], {name: tensor[moved] for name, tensor in after.items()})
        return torch.cat(pieces, dim=1)

    # one window

    def new_stream(self) -> Stream:
        return Stream(self.method_config.local_window, self.method_config.segment_size)

    def start_stream(self, stream: Stream | None, rows: Tensor, memory: State | None) -> Stream:
        """A stream that starts has a state of its own, which goes on from what was read."""
        stream = super().start_stream(stream, rows, memory)
        if memory is not None:
            numbers = rows.tolist()
            stream.carry("state", lambda: memory.select(numbers) if memory.num_rows else self.new_memory(len(numbers)))
        return stream

    def encode(self, window: Window) -> Tensor:
        if window.memory is None:
            return super().encode(window)
        assert window.stream is not None
        state = window.stream.carried["state"].stacked(range(len(window.ids)), self.start)
        return self._run(window, state)[0]

    def spill(self, row: int, token_ids: Tensor, columns: Tensor, stream: Stream) -> None:
        """What leaves the window is taken into the stream's state."""
        if stream.memory is not None:
            own, mask = stream.carried["state"], torch.ones_like(token_ids, dtype=torch.bool)[None]
            own.put([row], self.update(own.stacked([row], self.start), token_ids[None], mask))

    def _run(self, window: Window, state: States) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits [batch, keep or tokens, vocab] of a window that began with a state, and the mixers' states after."""
        stream, mixers = window.stream, self.mixers()
        embedded, mask = self._placed(window, state)
        first = {name: state[name] for name in initial_states(mixers)}
        held = {name: first[name] if stream is None else stream.carried.get(name, first[name]) for name in first}
        mixing = Mixing(mixers, held, mask[:, -embedded.shape[1] :])
        with attach(self.backbone.view, mixing) if mixers else nullcontext():
            logits = self.model(
                inputs_embeds=embedded,
                attention_mask=mask.long(),
                position_ids=window_positions(mask)[:, -embedded.shape[1] :],
                **cache_argument(None if stream is None else stream.caches[0]),
                use_cache=stream is not None,
                logits_to_keep=window.keep or window.ids.shape[1],
            ).logits
        if stream is not None:
            for name, tensor in mixing.states.items():
                stream.note(name, tensor)
        return logits, mixing.states

    def _placed(self, window: Window, state: States) -> tuple[Tensor, Tensor]:
        """Embeddings of the call's columns and the mask of all, with the prefix before a window's first token."""
        embedded, mask, stream = self.backbone.view.embeddings(window.ids), window.mask, window.stream
        new = embedded.shape[1]
        if mask.shape[1] > new:  # the window goes on, with what stands in the cache before it
            assert stream is not None
            mask = torch.cat((stream.carried["columns"], mask[:, -new:]), dim=1)
        elif (prefix := self.prefix(state)) is not None:
            embedded, mask = put_before(prefix, embedded, mask)
        if stream is not None:
            stream.note("columns", mask)
        return embedded, mask


def put_before(prefix: Tensor, embedded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """A prefix [batch, n, hidden_size] before embeddings [batch, tokens, hidden_size] and their mask [batch, tokens],
    after the padding that a row begins with: no padding stands between it and the row's first token.

    transformers counts sliding windows in columns. Columns of tokens keep their distance to the right end.
    """
    count, padding = prefix.shape[1], (mask.cumsum(dim=1) == 0).sum(dim=1, keepdim=True)  # [batch, 1]
    place = torch.arange(count + mask.shape[1], device=mask.device)[None].expand(len(mask), -1)
    source = torch.where(place < padding + count, place - padding, place)
    source = torch.where(place < padding, place + count, source)  # [batch, n + tokens]
    whole = torch.cat((prefix.to(embedded.dtype), embedded), dim=1)
    whole_mask = torch.cat((mask.new_ones(len(mask), count), mask), dim=1)
    return whole.gather(1, source[..., None].expand_as(whole)), whole_mask.gather(1, source)


def tensors_digest(state: Mapping[str, Tensor]) -> str:
    """A hash of trained tensors, by which a state that another network wrote is told."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
