"""An n-gram cache as a method: counts of what followed each suffix of the present before, mixed into a model's words.

What every memory of text should be compared with: it knows nothing but which tokens followed which (Grave et al., 2017,
keep hidden states instead; Kuhn and De Mori, 1990, single words). A token's past is what was read and its own stream up
to it. The suffixes of the present of 1 to `max_length` tokens are looked up in it; each one's followers, as a
distribution, are mixed into that of all shorter ones, the model's first, by a weight for its length and count.

The bank keeps no layer's keys and values: token ids, and where they came from.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ltm.backbone import Backbone
from ltm.bank import Bank, BankConfig
from ltm.configs import stride_of
from ltm.errors import LtmError
from ltm.methods.banks import bank_for, check_bank
from ltm.methods.baselines.ngram.config import NGramConfig
from ltm.methods.baselines.ngram.counts import BREAK, shares, suffix_matches
from ltm.methods.baselines.ngram.weights import WEIGHTS
from ltm.methods.method import Card
from ltm.methods.reader import Reader
from ltm.methods.registry import load_method, register
from ltm.streams import Past, Stream, Window

TRACED = 16
"""Most places of memory that a token's trace names."""


class RowPast(NamedTuple):
    """A row's tokens: the bank's, a break, its stream's. of_bank: how many are the bank's; gone: place of the window's
    first token."""

    tokens: np.ndarray
    of_bank: int
    gone: int


@register("ngram")
class NGram(Reader):
    """See the module's text and `NGramConfig`.

    >>> model = NGram(load_backbone("smollm2-135m"), NGramConfig())  # doctest: +SKIP
    >>> model.read(past); model.generate(present, max_new_tokens=20)  # doctest: +SKIP
    """

    config_class = NGramConfig
    memory_class = Bank
    keeps_bank = True
    card = Card(
        "",
        "what token ids alone give: the baseline of every memory that copies",
        "in the tables it stands beside LongMem's SideNet with memory off, not the bare backbone",
        needs_training=False,
    )

    def __init__(self, backbone: Backbone, config: NGramConfig):
        super().__init__(backbone, config)
        self.weights = np.array(WEIGHTS)[: config.max_length]  # [max_length, buckets]
        window: dict[str, Any] = {"local_window": config.local_window, "stride": config.stride}
        if config.backbone_share is not None:
            window["backbone_share"] = config.backbone_share
        self.inner = None if config.inner is None else load_method(backbone, config.inner, **window)
        self.weighs_every_token = self.inner is not None and self.inner.weighs_every_token

    # scoring

    def new_stream(self) -> Stream:
        if self.inner is not None:
            return self.inner.new_stream()
        config = self.method_config
        return Stream(config.local_window, stride_of(config.local_window, config.stride))

    def encode(self, window: Window) -> Tensor:
        logits = super().encode(window) if self.inner is None else self.inner.encode(window._replace(memory=None))
        return logits if window.memory is None else self._mixed(logits, window)

    def _mixed(self, logits: Tensor, window: Window) -> Tensor:
        """Logits [batch, the last columns, vocab] with what followed before mixed in, up to a constant a token."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        partition = logits.detach().logsumexp(dim=-1)  # [batch, columns]
        mask = window.mask[:, -window.ids.shape[1] :]
        before, trace, bank = mask.shape[1] - logits.shape[1], self.tracing, window.memory
        slots = torch.zeros(*mask.shape, TRACED, dtype=torch.long)
        used = torch.zeros(*mask.shape, TRACED)
        for row, past in enumerate(self._pasts(window)):
            columns = mask[row, before:].nonzero().squeeze(-1).tolist()
            for column, end in zip(columns, range(len(past.tokens) - len(columns), len(past.tokens)), strict=True):
                model, places, weights = self._copies(past, end)
                words, odds = _by_word(past.tokens[places + 1], weights / model)
                ids = torch.from_numpy(words).to(logits.device)
                copied = torch.from_numpy(np.log(odds)).to(logits) + partition[row, column]
                logits[row, column, ids] = torch.logaddexp(logits[row, column, ids], copied)
                if trace is not None:
                    self._note(past, places, weights, slots[row, before + column], used[row, before + column])
        if trace is not None and isinstance(bank, Bank) and bank.num_rows:
            numbers = [bank.chunks(int(number))["numbers"] for number in window.rows]
            named = [own[places] if len(own) else places for own, places in zip(numbers, slots, strict=True)]
            trace.note(bank, window.rows, torch.stack(named)[:, None], used[:, None])
        return logits

    def _copies(self, past: RowPast, end: int) -> tuple[float, np.ndarray, np.ndarray]:
        """The model's share of what comes after place `end`, and the places that are copied after, with theirs."""
        known = end if self.method_config.window_counts else max(past.gone - 1, 0)
        places, lengths = suffix_matches(past.tokens, end, known, len(self.weights))
        model, weights = shares(lengths, self.weights)
        return model, places, weights

    def _pasts(self, window: Window) -> list[RowPast]:
        """What each row of a stream has before it and in it, the new tokens included."""
        stream = window.stream
        assert stream is not None and stream.tokens is not None
        spilled, new = stream.carried.get("spilled"), window.ids.shape[1]
        pasts = []
        for row, (number, mask) in enumerate(zip(window.rows.tolist(), window.mask[:, -new:], strict=True)):
            read, left = _held(window.memory, number), _held(spilled, row)
            held = stream.tokens[row] if window.mask.shape[1] > new else stream.tokens[row][:0]
            present = torch.cat((held, window.ids[row, mask])).cpu().numpy()
            tokens = np.concatenate((read, [BREAK], left, present))
            pasts.append(RowPast(tokens, len(read), len(tokens) - len(present)))
        return pasts

    @staticmethod
    def _note(past: RowPast, places: np.ndarray, weights: np.ndarray, slots: Tensor, used: Tensor) -> None:
        """Write the places of the bank that weigh most into slots and used, [TRACED] each."""
        own = places < past.of_bank
        places, weights = places[own], weights[own]
        most = weights.argsort()[::-1][:TRACED].copy()
        slots[: len(most)] = torch.from_numpy(places[most])
        used[: len(most)] = torch.from_numpy(weights[most])

    # remembering

    def new_bank(self, num_rows: int) -> Bank:
        """An empty bank of token ids, with `num_rows` rows."""
        config = self.method_config
        settings = BankConfig(1, config.memory_size, config.memory_bytes)
        return bank_for(self, settings, num_rows, layers=())

    def new_memory(self, rows: int = 0) -> Bank:
        return self.new_bank(rows)

    def memory_in(self, bank: Bank) -> Bank:
        return bank

    def check_memory(self, memory: Bank) -> None:
        check_bank(memory, self.backbone, ())

    def take_in(self, past: Past, memory: Bank) -> None:
        memory.begin(len(past.ids))
        nothing = self._no_entries(past.ids)
        memory.write(
            nothing, nothing, past.ids, mask=past.mask, rows=past.rows, documents=past.documents, spans=past.spans
        )

    def spill(self, row: int, token_ids: Tensor, columns: Tensor, stream: Stream) -> None:
        if stream.memory is None:
            return
        nothing = self._no_entries(token_ids[None])
        spilled = stream.carry("spilled", lambda: self.new_bank(len(stream.valid)))
        spilled.write(nothing, nothing, token_ids[None], rows=[row])

    def _no_entries(self, ids: Tensor) -> Tensor:
        """Keys, or values, of no layer: [0, batch, kv_heads, tokens, head_dim]."""
        view = self.backbone.view
        return torch.empty(0, len(ids), view.num_kv_heads, ids.shape[1], view.head_dim)

    # what was tuned

    def trained_state(self) -> dict[str, Tensor]:
        return {"weights": torch.from_numpy(self.weights)}

    def load_trained_state(self, state: dict[str, Tensor], source: str) -> None:
        found = state.get("weights")
        if found is None or found.shape != self.weights.shape or not bool(((found >= 0) & (found < 1)).all()):
            raise LtmError(f"{source} does not hold an n-gram cache's weights: {list(self.weights.shape)} from 0 to 1")
        self.weights = found.double().cpu().numpy()


def _held(bank: Any, row: int) -> np.ndarray:
    """The tokens of a bank's row, int64 [tokens]."""
    tokens = bank.num_tokens(row) if bank is not None and bank.num_rows else 0
    return np.empty(0, np.int64) if bank is None or not tokens else bank.latest_tokens(row, tokens).cpu().numpy()


def _by_word(words: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each word once, with the sum of its weights."""
    once, place = np.unique(words, return_inverse=True)
    return once, np.bincount(place, weights, minlength=len(once))
