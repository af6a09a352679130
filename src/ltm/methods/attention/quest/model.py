"""Quest as a method: all keys and values stay, at their true positions; what is scored reads few of their pages.

Reading is dense. Each token that is scored or generated chooses, in every layer but the first few and for each head,
the pages of `page_size` tokens whose keys may match its query best - by an upper bound from the smallest and largest
value of each key channel - and attends to the tokens of these pages alone. Where everything fits the budget the result
is full attention's, by the same code.

How paper and released code (mit-han-lab/Quest) go together, and what differs here:

- Released prefill is dense and decoding sparse, where decoding is any pass over one token. Its evaluations therefore
  feed questions (LongBench) and whole books (PG-19) token by token. Here `read` is the dense part, and every token
  given to `forward` or `generate` is sparse, one by one or many at once with the same result.
- Released kernels always attend to the page that is being filled, as one of the budget; the evaluation code, with which
  the paper's tables were made, lets it compete (`current_page`). Both choose for each query head, also where heads
  share keys; `share_pages` chooses for each key head, which fetches less.
- Fewer than three pages are never chosen, and the first two layers are dense, as in the evaluation code. That code cuts
  the budget to the context's length before it counts whole pages, so that a context that fits but does not fill its
  last page loses one; here what fits is attended whole.
- Several rows, each with pages of its own whatever padding stands between them; beams; banks (released: one row).
- Layers that slide over a window of their own (Gemma 2 and 3, Mistral) stay as they are.

Quest makes a long context cheap to use; it does not lengthen it. Where the backbone's positions end, so does the stream
(`extrapolate` goes on regardless, for measurements).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ltm.attention import attach
from ltm.backbone import Backbone
from ltm.bank import Bank
from ltm.errors import LtmError
from ltm.methods.attention.quest import storing
from ltm.methods.attention.quest.config import QuestConfig
from ltm.methods.attention.quest.memory import PagedMemory
from ltm.methods.attention.quest.reader import PageReader
from ltm.methods.method import Card
from ltm.methods.registry import register
from ltm.methods.stream_reader import StreamReader
from ltm.streams import Past, Stream, Window
from ltm.streams.pages import Columns, PagedCache


@register("quest")
class Quest(StreamReader):
    """See the module's text and `QuestConfig`.

    >>> model = Quest(load_backbone("smollm2-135m"), QuestConfig())  # doctest: +SKIP
    >>> model.read(past)  # doctest: +SKIP
    >>> model.generate(present, max_new_tokens=20)  # doctest: +SKIP
    """

    config_class = QuestConfig
    memory_class = PagedMemory
    keeps_bank = True
    bank_options = ("page_size",)
    card = Card(
        "Tang et al., 2024, arXiv:2406.10774",
        "attention over the few pages of the cache that matter to a query, up to 7 times faster, nothing evicted",
        "every token after reading is sparse, however it comes; rows, padding, beams and banks",
        needs_training=False,
        deletion="all that was read later had it in its context: later keys and values, of all layers but the first, "
        "keep a trace of it",
    )

    def __init__(self, backbone: Backbone, config: QuestConfig):
        super().__init__(backbone, config)
        self._layers = range(config.dense_layers, backbone.view.num_layers)

    @property
    def max_stream_tokens(self) -> int | None:
        learned = not self.backbone.view.has_rotary
        return self.backbone.view.max_positions if learned or not self.method_config.extrapolate else None

    @property
    def stream_bytes_per_token(self) -> float | None:
        """Keys, values, and the pages' bounds of the layers that choose."""
        kept, view = super().stream_bytes_per_token, self.backbone.view
        assert kept is not None
        precise = torch.promote_types(self.dtype, torch.float32)
        channels = len(self._layers) * view.num_kv_heads * 2 * view.head_dim
        return kept + channels * precise.itemsize / self.method_config.page_size

    def new_stream(self) -> PagedCache:
        return PagedCache(self.method_config.page_size)

    def encode(self, window: Window) -> Tensor:
        cache, bank = window.stream, None if window.memory is None else window.memory.bank
        assert isinstance(cache, PagedCache)
        columns = Columns(window.mask)
        self._check_length(columns.num_tokens)
        traced = self.tracing is not None
        reader = PageReader(self.method_config, self._layers, cache, columns, window.ids.shape[1], traced)
        if reader.bypass and not traced:
            return super().encode(window)
        with attach(self.backbone.view, reader):
            logits = super().encode(window)
        if self.tracing is not None and bank is not None and reader.weights:
            storing.note_usage(self.tracing, bank, reader, window.rows)
        return logits

    def _check_length(self, length: int) -> None:
        limit = self.max_stream_tokens
        if limit is None or length <= limit:
            return
        rotary = self.backbone.view.has_rotary
        more = ", or extrapolate=True to go on where its answers cannot be trusted" if rotary else ""
        raise LtmError(
            f"{length:,} tokens are more than the backbone's {limit:,} positions, and Quest keeps true positions: it "
            f"makes a long context cheap, not longer; read less, use a backbone with more positions, or a method "
            f"that moves what it remembers{more}"
        )

    # the past

    def new_memory(self, rows: int = 0) -> PagedMemory:
        return PagedMemory(self.new_stream(), self.backbone.fingerprint, rows)

    def new_bank(self, num_rows: int) -> Bank:
        """An empty bank of every layer, without a limit: its chunks are for storage, not for search."""
        return storing.new_bank(self, num_rows)

    def memory_in(self, bank: Bank) -> PagedMemory:
        return PagedMemory(self.new_stream(), bank=bank)

    def check_memory(self, memory: PagedMemory) -> None:
        if memory.bank is not None:
            storing.check_quest_bank(memory.bank, self.backbone)
        super().check_memory(memory)

    def take_in(self, past: Past, memory: PagedMemory) -> None:
        memory.follow_bank(self.backbone.view)
        memory.past.reading = True
        try:
            super().take_in(past, memory)
        finally:
            memory.past.reading = False
        memory.store(self.backbone.view, past.mask, past.documents, past.spans)

    def score_and_read(self, past: Past, memory: PagedMemory | None) -> Tensor:
        if memory is None:
            return super().score_and_read(past, None)
        memory.follow_bank(self.backbone.view)
        logits = super().score_and_read(past, memory)
        memory.store(self.backbone.view, past.mask)
        return logits

    def start_stream(self, stream: Stream | None, rows: Tensor, memory: PagedMemory | None) -> Stream:
        if memory is not None and not (stream is not None and stream.get_seq_length()):
            memory.follow_bank(self.backbone.view)
            if memory.past.valid.shape[1] > self.method_config.token_budget:
                memory.past.update_bounds(self._layers)  # once, not in every stream that starts here
        return super().start_stream(stream, rows, memory)
