"""EM-LLM: layers of a frozen backbone attend to their window and to the events of the past that suit their query.

Text is taken in segment by segment. A segment is encoded with ordinary causal attention from position 0, and each layer
looks, in one softmax with it (Fountas et al., 2024, arXiv:2407.09450, section 3; its code stands on InfLLM's):

- at the `recent_size` tokens before it, at their true distance, so that window and segment together are `local_window`;
- at the first `num_sinks` tokens of what is remembered;
- at the events whose representative keys have the largest inner product with the query, summed over heads, and at
  their neighbours in time. Remembered keys are kept without positions; the query meets all events at one distance. By
  default these are only candidates: of them the few are recalled whose own keys heads would attend to most.

Then the segment is cut into events at tokens that surprised the model, boundaries are refined on the keys'
similarity (`segmentation.py`), each event gets a representative key in each layer and head (`selection.py`), and keys
and values of all layers go to the bank. While reading all tokens of a segment recall together, by their mean query;
while answering each token recalls for itself. With segmentation="blocks" events are runs of max_event_size tokens:
InfLLM.

Nothing is approximated while all that was read fits the window: every token sees all others as in full attention.

What differs from the paper and its released code (em-llm/EM-LLM-model):

- The window moves by segments: between recent_size and local_window tokens are seen (released: always n_local). Tokens
  are cut into events when their segment ends (released: when they leave the window), so an event ends with its segment,
  its surprise is held against its own segment's mean, and what it was attended to is counted over that segment.
- Remembered keys stand `distance` tokens away and keep the order that they have in their event, by default; released:
  all of them at the window's edge (distance=None, placement="edge").
- By default a mean of all its keys stands for an event and heads vote, sinks having a part of each vote; the paper's
  choices are representative="attended" and vote="sum" (what a token was attended to is counted for every fourth query).
- By default 128 tokens are recalled, of 4,096 whose keys are looked at (in early layers of a sixteenth of all tokens,
  where that is more); the paper's choices are candidate_tokens=None and retrieved_tokens of 2,048 and more.
- By default the first quarter of the layers sees sinks and window alone (paper: recall_from_layer=0).
- Neighbours are those of the present query's events (released: a queue that outlives the query).
- Sinks are the oldest tokens held (released: the first of the stream, for ever).
- The backbone's own rotary frequencies and scaling (released: recomputed from the base alone). Layers with a sliding
  window in a backbone that has others too (Gemma) recall nothing. Learned positions have no far edge: keys are taken as
  they are, and recent tokens keep the positions that they had.
- Batches, padding, beams, saving, deleting; what a deleted document leaves behind is in the card.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ltm.attention import attach, unrotate
from ltm.backbone import Backbone
from ltm.bank import Bank, BankConfig, BankPart, EventCut, LayeredBank
from ltm.bank.storage import BITS
from ltm.compat import DynamicCache, cache_argument
from ltm.methods.attention.base import center_tokens
from ltm.methods.attention.em_llm.config import EmLlmConfig
from ltm.methods.attention.em_llm.past import EventPast
from ltm.methods.attention.em_llm.reader import EventReader, PlaceUse, recalling_layers
from ltm.methods.attention.em_llm.segmentation import (
    event_sizes,
    key_similarity,
    refine_boundaries,
    surprising_tokens,
    token_surprise,
)
from ltm.methods.attention.em_llm.selection import mean_keys, representative_keys
from ltm.methods.banks import bank_for, check_bank, past_of
from ltm.methods.method import Card
from ltm.methods.reader import Reader
from ltm.methods.registry import register
from ltm.streams import Past, Stream, Window
from ltm.streams.masks import window_positions
from ltm.streams.segments import READ_BATCH_TOKENS, Segment, batches_of, cut_into_segments, pad_segments

LOGIT_PIECE = 64
"""Tokens whose logits are in float32 at a time."""
TRACED_TOKENS = 64
"""Places of the past that a trace names for each token, the most used ones."""


@register("em_llm")
class EmLlm(Reader):
    """See the module's text and `EmLlmConfig`.

    >>> model = EmLlm(load_backbone("smollm2-135m"), EmLlmConfig())  # doctest: +SKIP
    >>> model.read(past); model.generate(present, max_new_tokens=20)  # doctest: +SKIP
    """

    config_class = EmLlmConfig
    memory_class = Bank
    keeps_bank = True
    bank_options = (
        *("segmentation", "min_event_size", "max_event_size", "gamma", "refinement", "refine_from_layer"),
        *("representative", "representative_tokens", "local_window", "stride", "key_storage", "value_storage"),
    )
    card = Card(
        "Fountas et al., 2024, arXiv:2407.09450; Xiao et al., 2024, arXiv:2402.04617",
        "contexts far beyond the trained window without training, by recalling events of the past in every layer",
        "segments instead of a window that moves by tokens; batches, saved memories, today's transformers",
        needs_training=False,
        deletion="what was read later had it in its window, among its sinks or recalled it: later keys and values, of "
        "all layers but the first, keep a trace of it, also where it has been evicted since",
    )

    def __init__(self, backbone: Backbone, config: EmLlmConfig):
        super().__init__(backbone, config)
        self._center: Tensor | None = None
        self.refine_from_layer = config.first_layer("refine_from_layer", backbone.view.num_layers)
        config.first_layer("recall_from_layer", backbone.view.num_layers)  # refused here, not at the first text
        self._recalling = sorted(recalling_layers(backbone.view))

    # memory

    def new_bank(self, num_rows: int) -> Bank:
        """An empty bank for keys and values of all layers, with `num_rows` rows."""
        config = self.method_config
        settings = BankConfig(
            chunk_size=1,
            memory_size=config.memory_size,
            memory_bytes=config.memory_bytes,
            event_heads=self._event_heads,
            event_tokens=config.min_event_size,
            offload=config.offload,
            key_storage=config.key_storage,
            value_storage=config.value_storage,
        )
        center = self._key_center() if config.key_storage in BITS else None
        return bank_for(self, settings, num_rows, range(self.backbone.view.num_layers), center)

    @torch.no_grad()
    def _key_center(self) -> Tensor:
        """The mean keys of pseudo-random tokens, float32 [layers, kv_heads, head_dim]: of the backbone alone."""
        if self._center is None:
            ids = center_tokens(self.backbone)
            cache = DynamicCache()
            self.model(input_ids=ids, **cache_argument(cache), use_cache=True, logits_to_keep=1)
            keys, _ = self._position_free(cache, 0, torch.arange(ids.shape[1], device=ids.device))
            self._center = keys.float().mean(dim=2)
        return self._center

    def new_memory(self, rows: int = 0) -> Bank:
        return self.new_bank(rows)

    def memory_in(self, bank: Bank) -> Bank:
        return bank

    def check_memory(self, memory: Bank) -> None:
        differences = []
        if memory.config.event_heads is None:
            differences.append("it keeps no events (another method made it)")
        elif memory.config.event_heads != self._event_heads:
            differences.append(
                f"event_heads: bank {memory.config.event_heads}, model {self._event_heads} (representative)"
            )
        check_bank(memory, self.backbone, range(self.backbone.view.num_layers), differences)

    def take_in(self, past: Past, memory: Bank) -> None:
        memory.begin(len(past.ids))
        by_row: dict[int, list[Segment]] = {}
        for segment in cut_into_segments(past, self.method_config.segment_size):
            by_row.setdefault(segment.row, []).append(segment)
        for step in range(max(map(len, by_row.values()), default=0)):  # rows side by side, a row's segments in order
            together = (segments[step] for segments in by_row.values() if step < len(segments))
            for batch in batches_of(together, READ_BATCH_TOKENS):
                self._read_segments(batch, memory)

    def _read_segments(self, segments: Sequence[Segment], bank: Bank) -> None:
        """Encode one segment of each of several rows with its past, and remember it."""
        ids, mask = pad_segments(segments)
        past = LayeredBank([BankPart(bank, torch.tensor([segment.row for segment in segments]))])
        pasts = self._by_row(past, len(segments))
        reader = EventReader(self.backbone.view, self.method_config, pasts, mask, ids.shape[1], False, {})
        cache = DynamicCache()
        with attach(self.backbone.view, reader):
            logits = self.model(
                input_ids=ids,
                attention_mask=None if bool(mask.all()) else mask.long(),
                position_ids=window_positions(mask),
                **cache_argument(cache),
                use_cache=True,
                logits_to_keep=0 if self._needs_surprise else 1,
            ).logits
        attended = self._stack_received(reader)
        for index, segment in enumerate(segments):
            columns = torch.arange(len(segment.token_ids), device=ids.device)
            surprise = self._surprise(logits[index, : len(columns)], segment.token_ids, None)
            received = None if attended is None else attended[index]
            cut_and_keys = self._cut(cache, index, columns, surprise, received)
            self._write(bank, segment, *cut_and_keys)

    def _write(self, bank: Bank, segment: Segment, keys: Tensor, values: Tensor, cut: EventCut) -> None:
        """keys and values: [layers, kv_heads, tokens, head_dim]."""
        bank.write(
            keys[:, None],
            values[:, None],
            segment.token_ids[None],
            rows=[segment.row],
            documents=None if segment.document is None else [segment.document],
            spans=None if segment.spans is None else segment.spans[None],
            events=[cut],
        )

    # from a segment to events

    @property
    def _needs_surprise(self) -> bool:
        return self.method_config.segmentation == "surprise"

    def _surprise(self, logits: Tensor, ids: Tensor, before: Tensor | None) -> Tensor:
        """Surprise of tokens ids [tokens], float [tokens], NaN for a first one that nothing predicted; logits
        [tokens, vocab] after each of them, before [vocab]: before the first."""
        found = [torch.full((1,), float("nan"), dtype=torch.float64, device=ids.device)]
        if not self._needs_surprise:
            return found[0].expand(len(ids))
        if before is not None:
            found = [token_surprise(before[None], ids[:1]).double()]
        for start in range(0, len(ids) - 1, LOGIT_PIECE):
            piece = slice(start, min(start + LOGIT_PIECE, len(ids) - 1))
            found.append(token_surprise(logits[piece], ids[piece.start + 1 : piece.stop + 1]).double())
        return torch.cat(found)

    def _cut(
        self, cache: DynamicCache, row: int, columns: Tensor, surprise: Tensor, attended: Tensor | None
    ) -> tuple[Tensor, Tensor, EventCut]:
        """A row's window as it goes to memory: position-free keys and values [layers, kv_heads, tokens, head_dim], and
        its events. columns: of its tokens, in order; surprise [tokens]; attended [layers, heads, columns] or None."""
        keys, values = self._position_free(cache, row, columns)
        sizes = torch.tensor(self._event_sizes(keys, surprise))
        if attended is None:
            return keys, values, EventCut(sizes, mean_keys(keys, sizes))
        chosen = representative_keys(keys, attended[:, :, columns], sizes, self.method_config.representative_tokens)
        return keys, values, EventCut(sizes, chosen)

    def _event_sizes(self, keys: Tensor, surprise: Tensor) -> list[int]:
        """Tokens of each event of a segment; keys [layers, kv_heads, tokens, head_dim]."""
        config, tokens = self.method_config, len(surprise)
        if not self._needs_surprise:
            return event_sizes([], tokens, 1, config.max_event_size)
        surprise = torch.where(surprise.isnan(), surprise.nanmean(), surprise)
        boundaries = surprising_tokens(surprise, config.gamma).tolist()
        if config.refinement != "none" and boundaries:
            layers = [layer for layer in self._recalling if layer >= self.refine_from_layer] or self._recalling[-1:]
            similarity = key_similarity(keys[layers].to(torch.promote_types(keys.dtype, torch.float32)))
            boundaries = refine_boundaries(boundaries, similarity, config.refinement, config.min_event_size)
        return event_sizes(boundaries, tokens, config.min_event_size, config.max_event_size)

    def _position_free(self, cache: DynamicCache, row: int, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Keys without positions and values of a row's tokens at positions 0, 1, ..., of every layer."""
        positions = torch.arange(len(columns), device=columns.device)[None]
        keys, values = [], []
        for index, layer in enumerate(cache.layers):
            own: Any = layer
            angles = self.backbone.view.angles(positions, index, self.backbone.dtype)
            rotated = own.keys[row : row + 1, :, columns]
            keys.append(rotated if angles is None else unrotate(rotated, *angles))
            values.append(own.values[row : row + 1, :, columns])
        return torch.cat(keys), torch.cat(values)

    @property
    def _event_heads(self) -> int:
        """Heads of representative keys: what is attended to differs between the query heads that share a key."""
        view = self.backbone.view
        return view.num_kv_heads if self.method_config.representative == "mean" else view.num_heads

    def _stack_received(self, reader: EventReader) -> Tensor | None:
        """Attention received by the columns, [batch, layers, heads, columns]; zero in layers that recall nothing, None
        where it is not counted."""
        if not reader.received:
            return None
        like = next(iter(reader.received.values()))
        zero = torch.zeros_like(like)
        return torch.stack([reader.received.get(layer, zero) for layer in range(self.backbone.view.num_layers)], dim=1)

    # one window of a stream

    def new_stream(self) -> Stream:
        size = self.method_config.segment_size
        return Stream(size, size)

    def encode(self, window: Window) -> Tensor:
        stream, keep, new = window.stream, window.keep, window.ids.shape[1]
        if window.memory is None or stream is None:
            return super().encode(window)
        pasts = self._pasts(window)
        uses = None if self.tracing is None or not window.memory.num_rows else PlaceUse(pasts, new)
        reader = EventReader(
            self.backbone.view, self.method_config, pasts, window.mask, new, True, stream.scratch, uses
        )
        with attach(self.backbone.view, reader):
            logits = super().encode(window._replace(keep=0 if self._needs_surprise else keep))
        with torch.no_grad():
            self._take_notes(stream, reader, logits.detach(), window)
        if uses is not None:
            self._note_trace(uses, window)
        return logits[:, -keep:] if keep else logits

    def _pasts(self, window: Window) -> list[EventPast]:
        """What each row of the batch remembers now: the bank, and what this stream has spilled."""
        past, stream = past_of(window, window.rows), window.stream
        assert stream is not None
        if stream.scratch.get("version") != past.version:
            stream.scratch.clear()
            stream.scratch.update(version=past.version, pasts=self._by_row(past, len(window.ids)))
        return stream.scratch["pasts"]

    def _by_row(self, past: LayeredBank, rows: int) -> list[EventPast]:
        return [EventPast(past, row, self.method_config) for row in range(rows)]

    def _take_notes(self, stream: Stream, reader: EventReader, logits: Tensor, window: Window) -> None:
        """Surprise of new tokens, attention received by the window, and the logits that predict the next token."""
        ids, mask = window.ids, window.mask
        received = self._stack_received(reader)  # [batch, layers, heads, held + new]
        before = stream.carried.get("attended")
        if received is not None:
            if before is not None:
                received[..., : before.shape[-1]] += before
            stream.note("attended", received)
        if not self._needs_surprise:
            return
        surprise = torch.full(ids.shape, float("nan"), dtype=torch.float64, device=ids.device)
        known = stream.carried.get("logits")
        last = torch.full_like(logits[:, 0], float("nan")) if known is None else known.clone()
        for row, valid in enumerate(mask[:, -ids.shape[1] :]):
            if not bool(valid.any()):
                continue
            first = None if bool(last[row, 0].isnan()) else last[row]
            surprise[row, valid] = self._surprise(logits[row, valid], ids[row, valid], first)
            last[row] = logits[row, valid][-1]
        held = stream.carried.get("surprise", surprise[:, :0])
        stream.note("surprise", torch.cat((held, surprise), dim=1))
        stream.note("logits", last)

    @torch.no_grad()
    def encode_leaving(self, window: Window) -> None:
        """All of it: keys of every layer, which depend on what they recall, and the surprise."""
        if window.memory is not None:
            self.encode(window._replace(keep=1))

    def spill(self, row: int, token_ids: Tensor, columns: Tensor, stream: Stream) -> None:
        """A full window goes to the stream's own bank, cut into events."""
        if stream.memory is None:
            return
        spilled = stream.carry("spilled", lambda: self.new_bank(len(stream.valid)))
        if self._needs_surprise:
            surprise = stream.carried["surprise"][row, columns]
        else:
            surprise = torch.full((len(columns),), float("nan"))
        attended = stream.carried.get("attended")
        received = None if attended is None else attended[row]
        kept = self._cut(stream.caches[0], row, columns, surprise, received)
        self._write(spilled, Segment(token_ids, row, None, None), *kept)

    def _note_trace(self, uses: PlaceUse, window: Window) -> None:
        """Tell the trace which places of the bank's rows were used most, one step for all layers; sinks are left out,
        which heads with nothing to look for look at."""
        trace, bank, rows = self.tracing, window.memory, window.rows
        assert trace is not None and isinstance(bank, Bank)
        held = [bank.num_tokens(row) for row in rows.tolist()]
        most = min(TRACED_TOKENS, max(held))
        if not most:
            return
        slots, weights = [], []
        for sums, sinks, row, tokens in zip(uses.sums, uses.num_sinks, rows.tolist(), held, strict=True):
            shares = torch.zeros(len(sums), max(tokens, most))
            shares[:, sinks:tokens] = sums[:, sinks:tokens] / max(uses.num_layers, 1)
            best, places = shares.topk(most, dim=-1)
            numbers = bank.rows[row].slots() if tokens else torch.zeros(1, dtype=torch.int64)
            slots.append(numbers[places.clamp(max=max(tokens - 1, 0))])
            weights.append(best)
        trace.note(bank, rows, torch.stack(slots)[:, None], torch.stack(weights)[:, None])
