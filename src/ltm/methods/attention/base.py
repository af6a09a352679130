"""What methods share that remember keys and values of one backbone layer in a bank.

How a token is remembered: in segments of `segment_size` tokens, each encoded on its own from position 0 by the backbone
up to the memory layer; that layer's keys (position-free) and values go to the bank. What leaves the window of a stream
goes to a bank of that stream. In training a segment is scored first and written then, so that a token remembers only
earlier segments. How a token is scored with what was remembered is the method's own part: `score`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ltm.attention import Plugin, StopForward, attach
from ltm.backbone import Backbone
from ltm.bank import Bank, BankConfig, LayeredBank
from ltm.bank.storage import BITS, STORAGE_OPTIONS
from ltm.configs import stride_of
from ltm.errors import LtmError
from ltm.methods.attention.memory_reader import KeyValueTap
from ltm.methods.banks import bank_for, check_bank, past_of, writer_differences
from ltm.methods.reader import Reader
from ltm.streams import Past, Stream, Window
from ltm.streams.masks import window_positions
from ltm.streams.segments import READ_BATCH_TOKENS, Segment, batches_of, cut_into_segments, pad_segments

CENTER_TOKENS = 256
"""Their mean key leaves 1.5% of the keys' variance as error of 4 bits; 1,024 tokens no less; no centre 4.3%."""


def center_tokens(backbone: Backbone) -> Tensor:
    """Pseudo-random token ids [1, CENTER_TOKENS], the same ones at any time."""
    place = torch.arange(1, CENTER_TOKENS + 1, device=backbone.device)
    return (place * 2_654_435_761 % 2**32 % backbone.view.vocab_size)[None]  # Knuth's multiplicative hash


class Scored(NamedTuple):
    """One window: logits [batch, tokens or the last few, vocab]; keys and values to remember of its tokens,
    position-free, [batch, kv_heads, tokens, head_dim]."""

    logits: Tensor
    keys: Tensor
    values: Tensor


class BankReader(Reader):
    """Base of methods that remember in a bank.

    config: has `memory_size`, `memory_bytes`, `index`, `evict`, `key_storage`, `value_storage`, `search_storage`,
    `segment_size`, `local_window`, `stride` and `recent_tokens`. memory_layer: the zero-based backbone layer whose keys
    and values are kept; chunk_size: consecutive tokens that share one search key;
    shared_memory: all rows of a batch use one memory row. A method supplies `score`, `trained_module` and
    `local_share`.
    """

    memory_class = Bank
    keeps_bank = True
    num_networks: ClassVar[int] = 1
    """Networks that keep keys and values of the window: the backbone, and what runs beside it."""

    def __init__(
        self,
        backbone: Backbone,
        config: Any,
        *,
        memory_layer: int,
        chunk_size: int,
        shared_memory: bool = False,
    ):
        super().__init__(backbone, config)
        self.memory_layer, self.chunk_size, self.shared_memory = memory_layer, chunk_size, shared_memory
        self._center: Tensor | None = None

    # what a method supplies

    def score(self, window: Window) -> Scored:
        """One window with what `past_of` it remembers, by `run`; window.stream is None in training."""
        raise NotImplementedError

    @property
    def trained_module(self) -> nn.Module:
        """What is trained beside the frozen backbone; `save_pretrained` writes its state."""
        raise NotImplementedError

    def local_share(self) -> Tensor | None:
        """Each head's weight of the local side in 0..1, [heads]; None with a softmax shared by both sides."""
        raise NotImplementedError

    def before_remembering(self, keys: Tensor, mask: Tensor) -> None:
        """Called with keys that are about to be written, [batch, kv_heads, tokens, head_dim], and their mask."""

    # memory

    def new_bank(self, num_rows: int) -> Bank:
        """An empty bank that fits this model, with `num_rows` rows."""
        config = self.method_config
        storages = {name: getattr(config, name) for name in STORAGE_OPTIONS}
        settings = BankConfig(
            self.chunk_size,
            config.memory_size,
            config.memory_bytes,
            index=config.index,
            evict=config.evict,
            **storages,
        )
        quantised = any(storages[name] in BITS for name in ("key_storage", "search_storage"))
        center = self._key_center() if quantised else None
        bank = bank_for(self, settings, num_rows, (self.memory_layer,), center)
        bank.writer_digest = self.writer_digest
        return bank

    def _key_center(self) -> Tensor:
        """The mean key of CENTER_TOKENS pseudo-random tokens, float32 [1, kv_heads, head_dim].

        Of the network alone: it tells nothing of what will be remembered, and every bank has the same.
        """
        if self._center is None:
            ids = center_tokens(self.backbone)
            keys, _ = self.encode_keys_values(ids, torch.ones_like(ids, dtype=torch.bool))
            self._center = keys.float().mean(dim=2)
        return self._center

    def new_memory(self, rows: int = 0) -> Bank:
        return self.new_bank(1 if self.shared_memory else rows)

    def memory_in(self, bank: Bank) -> Bank:
        return bank

    def check_memory(self, memory: Bank) -> None:
        differences = []
        if memory.config.chunk_size != self.chunk_size:
            differences.append(f"chunk_size: bank {memory.config.chunk_size}, model {self.chunk_size}")
        check_bank(memory, self.backbone, (self.memory_layer,), differences + writer_differences(memory, self))

    def take_in(self, past: Past, memory: Bank) -> None:
        memory.begin(len(past.ids))
        past = past._replace(rows=self._bank_rows(past.rows))
        for batch in batches_of(cut_into_segments(past, self.method_config.segment_size), READ_BATCH_TOKENS):
            self._read_segments(batch, memory)

    def _read_segments(self, segments: Sequence[Segment], bank: Bank) -> None:
        """Encode segments in one pass up to the memory layer, write them in order."""
        ids, mask = pad_segments(segments)
        keys, values = self.encode_keys_values(ids, mask)
        self.before_remembering(keys, mask)
        for index, segment in enumerate(segments):
            length = len(segment.token_ids)
            bank.write(
                keys[index : index + 1, :, :length],
                values[index : index + 1, :, :length],
                segment.token_ids[None],
                rows=torch.tensor([segment.row]),
                documents=None if segment.document is None else [segment.document],
                spans=None if segment.spans is None else segment.spans[None],
            )

    @torch.no_grad()
    def encode_keys_values(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Position-free keys and values of the memory layer, [batch, kv_heads, tokens, head_dim]; none above runs."""
        tap = KeyValueTap(self.memory_layer, stop=True)
        with attach(self.backbone.view, tap), suppress(StopForward):
            self.encode_alone(ids, mask)
        assert tap.keys is not None and tap.values is not None
        return tap.keys, tap.values

    def encode_alone(self, ids: Tensor, mask: Tensor) -> None:
        """The backbone over segments, each from position 0, for what is attached to it."""
        self.model(
            input_ids=ids,
            attention_mask=None if bool(mask.all()) else mask.long(),
            position_ids=window_positions(mask),
            use_cache=False,
        )

    # one window

    def start_stream(self, stream: Stream | None, rows: Tensor, memory: Bank | None) -> Stream:
        """A stream that starts has what was read last before it, `recent_tokens` of it, in its window.

        What leaves the window is remembered by the stream, these tokens too, though the bank has them already.
        """
        stream, recent = super().start_stream(stream, rows, memory), self.method_config.recent_tokens
        if recent and memory is not None and memory.num_rows and stream.tokens is None:
            stream.begin(len(rows), rows.device)
            numbers = self._bank_rows(rows).tolist()
            stream.tokens = [memory.latest_tokens(number, recent).to(rows.device) for number in numbers]
            stream.stale = stream.holds_tokens
        return stream

    def new_stream(self) -> Stream:
        config = self.method_config
        stride = stride_of(config.local_window, config.stride)
        return Stream(config.local_window, stride, num_networks=self.num_networks)

    def encode(self, window: Window) -> Tensor:
        scored = self.score(window)
        if window.stream is not None:  # with memory off too: it may be on when these columns leave
            self._note_columns(window.stream, scored.keys, scored.values)
        return scored.logits

    @staticmethod
    def _note_columns(stream: Stream, keys: Tensor, values: Tensor) -> None:
        """What `spill` will write of the window's new columns, [batch, kv_heads, new columns, head_dim]."""
        stream.note_columns("memory_keys", keys)
        stream.note_columns("memory_values", values)

    def run(self, plugins: Sequence[Plugin], window: Window) -> Scored:
        """The backbone over one window with plugins attached."""
        tap = KeyValueTap(self.memory_layer)
        with attach(self.backbone.view, tap, *plugins):
            logits = super().encode(window)
        assert tap.keys is not None and tap.values is not None
        return Scored(logits, tap.keys, tap.values)

    def past_of(self, window: Window) -> LayeredBank:
        """What was read, and what this stream has spilled, for the rows of a window."""
        return past_of(window, self._bank_rows(window.rows))

    @torch.no_grad()
    def encode_leaving(self, window: Window) -> None:
        """Up to the memory layer, without what is trained and without logits."""
        if window.stream is not None and window.memory is not None:
            self._note_columns(window.stream, *self.encode_keys_values(window.ids, window.mask))

    def spill(self, row: int, token_ids: Tensor, columns: Tensor, stream: Stream) -> None:
        """What leaves the window goes to the stream's own bank: written as `read` would have written it."""
        if stream.memory is None:
            return
        # rows of their own even with shared_memory: beams part
        spilled = stream.carry("spilled", lambda: self.new_bank(len(stream.valid)))
        spilled.write(
            stream.carried["memory_keys"][row : row + 1, :, columns],
            stream.carried["memory_values"][row : row + 1, :, columns],
            token_ids[None],
            rows=torch.tensor([row]),
        )

    def score_and_read(self, past: Past, memory: Bank | None) -> Tensor:
        """Training's pass: each segment of columns is scored in a window of its own, then written."""
        size, pieces = self.method_config.segment_size, []
        if memory is not None:
            memory.begin(len(past.ids))
        for start in range(0, past.ids.shape[1], size):
            ids, mask = past.ids[:, start : start + size], past.mask[:, start : start + size]
            scored = self.score(Window(ids, mask, None, past.rows, 0, memory))
            pieces.append(scored.logits)
            if memory is not None:
                self.before_remembering(scored.keys, mask)
                memory.write(scored.keys, scored.values, ids, mask=mask, rows=self._bank_rows(past.rows))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    # rows, switches, storage

    def _bank_rows(self, rows: Tensor) -> Tensor:
        return torch.zeros_like(rows) if self.shared_memory else rows

    def rows_in(self, memory: Bank | None) -> int:
        return 0 if self.shared_memory else super().rows_in(memory)

    def forget(self, memory: Bank, rows: list[int] | None) -> None:
        memory.reset([0] if self.shared_memory and rows is not None else rows)

    def gate_summary(self) -> dict[str, float]:
        """The local side's weight over heads: mean, least and most."""
        share = self.local_share()
        if share is None:
            return {}
        share = share.detach()
        return {
            "gate_mean": float(share.mean()),
            "gate_min": float(share.min()),
            "gate_max": float(share.max()),
        }

    def trained_state(self) -> dict[str, Tensor]:
        return dict(self.trained_module.state_dict())

    def load_trained_state(self, state: dict[str, Tensor], source: str) -> None:
        own = self.trained_module.state_dict()
        wrong = sorted(set(own) ^ set(state)) or [n for n in own if own[n].shape != state[n].shape]
        if wrong:
            raise LtmError(f"{source} does not fit its own config: {', '.join(wrong[:3])}; train again")
        self.trained_module.load_state_dict(state)
