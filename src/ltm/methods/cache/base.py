"""CacheRule: methods that live within a budget of keys and values, each a rule of a few lines on a `KeptCache`.

All layers attend to what is kept, through `ltm.attention`; no forward is patched and no mask of transformers' is
trusted. Tokens are taken in by *blocks* of `block` places of their row: after each whole block the rule scores what a
layer holds, and the lowest leave. Blocks are counted in true places, so that it does not matter in which pieces a text
comes, or what padding stands beside it: whole = in pieces = token by token. With block=1 it is the papers' decoding;
between two evictions a head holds at most its budget and one block.

The layers do not wait for each other: a call runs the backbone once, and in each layer block after block attends,
scores and evicts. That is the same as running block after block, since a layer's evictions need that layer alone.

Positions. With positions="true" a key keeps the position it was computed at, however many tokens leave; the stream ends
where the backbone's positions do. With positions="cache" keys are kept without positions, and placed by their order
among what their head holds, the query after them: no distance is longer than the cache, and the stream has no end.

Layers that slide over a window of their own (Gemma 2 and 3, Mistral) go on doing so, by true places: what slid out of
the window is freed first, since no query will see it again, and the rule decides only where the budget is smaller than
the window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ltm.attention import attach
from ltm.backbone import Backbone
from ltm.configs import Config
from ltm.errors import BankMismatchError, ConfigError, LtmError
from ltm.memory import Memory
from ltm.methods.cache.attending import KeptAttention
from ltm.methods.stream_reader import StreamReader
from ltm.streams import StreamMemory, Window
from ltm.streams.kept import EMPTY, Codec, KeptCache, KeptLayer
from ltm.streams.kept_memory import KeptMemory, KeptStream
from ltm.streams.masks import window_positions

PASS_TOKENS = 1024
"""Columns that run through the backbone together: a long text takes no more memory than so many of its tokens."""


@dataclass(frozen=True)
class CacheFields(Config):
    """What every rule's config has."""

    budget: int | None = 1024
    """Tokens whose keys and values each head keeps; None: all."""
    budget_share: float = 0.0
    """Share of all tokens seen that is kept where it is more than the budget; 0: the budget alone."""
    budget_bytes: int | None = None
    """Bytes of keys and values in each row, all layers together, in the place of `budget`; None: that in tokens."""
    block: int = 64
    """Tokens after which a head goes back to its budget; 1: after every token, as papers decode."""
    positions: Literal["true", "cache"] = "true"
    """Where kept keys stand: 'true', where they stood in the text; 'cache', by their order among what is kept."""
    heads: Literal["own", "same"] = "own"
    """Whether each head keeps its own tokens, or all heads of a layer the same, by their mean score."""

    LEAST: ClassVar[Mapping[str, float]] = {"budget": 1, "budget_share": 0, "budget_bytes": 1, "block": 1}
    MOST: ClassVar[Mapping[str, float]] = {"budget_share": 1}

    @classmethod
    def with_budget(cls, tokens: int | None = None, num_bytes: int | None = None) -> dict[str, int]:
        asked = {"budget": tokens, "budget_bytes": num_bytes}
        return {name: value for name, value in asked.items() if value is not None}


def best_slots(scores: Tensor, held: Tensor, room: int | Tensor) -> Tensor:
    """The `room` best scored of the slots that hold something, bool [batch, kv_heads, slots]; of equals the later.

    scores: [batch, kv_heads or 1, slots]; room: one number, or int64 that broadcasts to [batch, kv_heads].

    >>> best_slots(torch.tensor([[[3.0, 1.0, 2.0]]]), torch.ones(1, 1, 3, dtype=torch.bool), 2).tolist()
    [[[True, False, True]]]
    """
    order = scores.expand_as(held).masked_fill(~held, float("-inf")).argsort(dim=-1, stable=True)
    slots = torch.arange(held.shape[-1], device=held.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(-1, order, slots)
    least = held.shape[-1] - (room[..., None] if isinstance(room, Tensor) else room)
    return held & (rank >= least)


class CacheRule(StreamReader):
    """Base of the rules. A method supplies `score`, and of the other hooks those that it needs; all are of one layer
    and what it holds. Slots are `held.place`'s, [batch, kv_heads, slots]; one whose place is EMPTY holds nothing. With
    `head_groups` the kv_heads of every shape are those of one group, `held.heads`.

    >>> class Newest(CacheRule):
    ...     config_class = CacheFields
    ...     def score(self, layer, held): return held.place.double()
    """

    memory_class: ClassVar[type[Memory]] = KeptMemory

    def __init__(self, backbone: Backbone, config: Any):
        super().__init__(backbone, config)
        self.slides = False  # windows are counted in places here, so that padding does not matter
        if config.positions == "cache" and not backbone.view.has_rotary:
            raise ConfigError(
                f"positions='cache', but {backbone.name or 'this backbone'} adds learned positions to its embeddings, "
                "where they cannot be changed afterwards; use positions='true'"
            )

    # what a method supplies

    def score(self, layer: int, held: KeptLayer) -> Tensor:
        """[batch, kv_heads or 1, slots]: at the end of a block the lowest leave."""
        raise NotImplementedError(f"{type(self).__name__} does not say which tokens stay")

    def room(self, layer: int, held: KeptLayer) -> int | Tensor | None:
        """How many tokens stay: a number, int64 that broadcasts to [batch, kv_heads], or None for all."""
        share = self.method_config.budget_share
        if self.budget is None or not share:
            return self.budget
        seen = (held.last.amax(dim=1) + 1).double()  # [batch, 1]
        return (seen * share).long().clamp(min=self.budget)

    @property
    def budget(self) -> int | None:
        """Tokens that the budget is, in tokens or bytes; None: no limit."""
        config, view = self.method_config, self.backbone.view
        if config.budget_bytes is None:
            return config.budget
        of_token = 2 * view.num_layers * view.num_kv_heads * view.head_dim * self.dtype.itemsize
        return max(config.budget_bytes // of_token, 1)

    def keep(self, layer: int, held: KeptLayer) -> Tensor:
        """Which slots stay, bool [batch, kv_heads, slots]: those scored best, as many as there is room for."""
        room = self.room(layer, held)
        if room is None:
            return held.held
        scores = self.score(layer, held)
        if self.method_config.heads == "same":
            scores = scores.mean(dim=1, keepdim=True)
        return best_slots(scores, held.held, room)

    def head_groups(self, layer: int) -> Sequence[Sequence[int]]:
        """Key heads that are kept in one tensor, which is as long as the fullest of them: one group, but for rules that
        give heads budgets of their own."""
        return [range(self.backbone.view.num_kv_heads)]

    def asks(self, layer: int, places: Tensor) -> Tensor | None:
        """Which queries' weights `note` is to be told, bool [batch, new], from their places; None: nobody's."""
        return None

    def note(self, layer: int, held: KeptLayer, weights: Tensor, places: Tensor) -> None:
        """What queries gave the tokens held: softmax weights [batch, kv_heads, group, queries, slots] of the queries at
        places [batch, queries], zero for a row whose query did not ask (its place is EMPTY)."""

    def look(self, layer: int, held: KeptLayer, query: Tensor, seen: Tensor) -> Tensor | None:
        """Which slots a query attends to, bool [batch, heads or kv_heads, new, slots], of those `seen` [batch,
        kv_heads, new, slots]; None: all. query: [batch, heads, new, head_dim]."""
        return None

    def gone(self, layer: int, held: KeptLayer, leaving: Tensor) -> None:
        """Slots that are about to be freed, bool [batch, kv_heads, slots], for what is merged or summed up."""

    def codec(self, layer: int, held: KeptLayer) -> Codec | None:
        """How tokens of whole blocks are kept; None: as they are."""
        return None

    # what the base does with it

    def new_stream(self) -> KeptStream:
        options = ", ".join(f"{name}={value!r}" for name, value in asdict(self.method_config).items())
        return KeptStream(f"{self.name}({options})")

    def new_memory(self, rows: int = 0) -> KeptMemory:
        return KeptMemory(self.new_stream(), self.backbone.fingerprint, rows)

    def check_memory(self, memory: StreamMemory) -> None:
        self.check_unchanged(memory)
        held, own = memory.past, self.new_stream()
        if not isinstance(held, KeptStream) or held.made_by != own.made_by:
            raise BankMismatchError(
                f"this memory was kept by {getattr(held, 'made_by', 'another method')}; {own.made_by} would have kept "
                "others: use the same options, or read the text again"
            )

    @property
    def max_stream_tokens(self) -> int | None:
        return self.backbone.view.max_positions if self.method_config.positions == "true" else None

    @property
    def stream_bytes_per_token(self) -> float | None:
        return super().stream_bytes_per_token if self.budget is None else None

    def encode(self, window: Window) -> Tensor:
        num_new, stream = window.ids.shape[1], window.stream
        places = window_positions(window.mask)
        self._check_length(int(places.max()) + 1)
        places = places.masked_fill(~window.mask, EMPTY)[:, -num_new:]
        kept = KeptCache([self.head_groups(layer) for layer in range(self.backbone.view.num_layers)])
        if isinstance(stream, KeptStream) and stream.kept is not None and window.mask.shape[1] > num_new:
            kept = stream.kept.mapped(lambda tensor: tensor)  # a pass that fails leaves what was there
        logits = []
        for start in range(0, num_new, PASS_TOKENS):
            columns = slice(start, min(start + PASS_TOKENS, num_new))
            wanted = max(window.keep - (num_new - columns.stop), 1) if window.keep else 0
            logits.append(self._pass(window.ids[:, columns], places[:, columns], kept, wanted))
        if stream is not None:
            stream.note("kept", kept)
        return torch.cat(logits, dim=1)[:, -window.keep :]

    def _pass(self, ids: Tensor, places: Tensor, kept: KeptCache, keep: int) -> Tensor:
        """Logits [batch, keep or columns, vocab] of some columns; what they leave is in `kept` afterwards."""
        held, positions = places != EMPTY, places.clamp(min=0)
        if self.method_config.positions == "cache":  # they are taken off again, but must be in the backbone's range
            positions = window_positions(held)
        with attach(self.backbone.view, KeptAttention(self, self.backbone.view, kept, places, positions)):
            outputs = self.model(
                input_ids=ids,
                attention_mask=held.long(),
                position_ids=positions,
                use_cache=False,
                logits_to_keep=keep,
            )
        return outputs.logits

    def _check_length(self, length: int) -> None:
        limit = self.max_stream_tokens
        if limit is None or length <= limit:
            return
        more = ", or positions='cache'" if self.backbone.view.has_rotary else ""
        raise LtmError(
            f"{length:,} tokens are more than the backbone's {limit:,} positions, and kept keys stand where they stood "
            f"in the text; read less{more}, or use a backbone with more positions"
        )
