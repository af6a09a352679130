"""LongMem: a frozen backbone fills a bank of keys and values, a SideNet retrieves from it and fuses both.

How a token is scored: the backbone runs over the local window; its hidden states drive the SideNet, whose memory layer
attends locally and over the chunks that it retrieves; the SideNet's output goes through the backbone's head.
How a token is scored with `backbone_share`: the backbone's own words are mixed into the SideNet's, before the pointer
copies, by shares that a stream learns: see `mixture`. Evidence is every token of the stream but its first, once, as it
was predicted when it came: also what stood before the last logits where only these are asked for, so that a prompt
leaves the same state whole or in pieces; not what was read, nor what a window that has moved on encodes anew.
How a token is remembered: in segments of `segment_size` tokens, each encoded on its own from position 0 by the
backbone up to the memory layer; that layer's keys (position-free) and values go to the bank, after the segment was
scored, so that a token remembers only earlier segments.

What differs from the released code (Victorwz/LongMem): rows have memories of their own (`shared_memory=True` gives the
released behaviour); a query that finds fewer chunks than asked gets a mask instead of repeated entries; the last tokens
of a segment that fill no chunk are kept as a short chunk instead of dropped; eviction drops the oldest chunks one by
one instead of two segments at once; queries and keys meet without rotary embedding (the released backbone uses ALiBi,
whose bias it does not apply to memory). The last hidden state is taken before the backbone's final norm, as the others
are, so that residuals telescope; the released backbone gives it after the norm, and the last residual is then a
difference of two kinds. With either choice the rest is the same (`parity_longmem.py`). The gate's sigmoid
weighs the local side, as in the paper's equation; the released code has it on the memory side, which is the same family
with the other sign.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, distributed, nn

from ltm.attention import StopForward, attach
from ltm.backbone import Backbone
from ltm.bank import LayeredBank
from ltm.bank.storage import STORAGE_OPTIONS
from ltm.methods.attention.base import BankReader, Scored
from ltm.methods.attention.longmem.config import LongMemConfig
from ltm.methods.attention.longmem.mixture import Evidence, mix_with_backbone
from ltm.methods.attention.longmem.reader import SideNetDriver, copy_from_memory
from ltm.methods.attention.longmem.sidenet import SideNet
from ltm.methods.attention.longmem.window_reach import Held, held_columns
from ltm.methods.attention.memory_reader import KeyValueTap, MemoryReader
from ltm.methods.method import Card
from ltm.methods.registry import register
from ltm.streams import Stream, Window

EVIDENCE = ("backbone_weights", "backbone_ratio")
"""Under which names a stream carries the parts of `Evidence`."""


@register("longmem")
class LongMem(BankReader):
    """The flagship method; see the module's text, `LongMemConfig` and `SideNet`.

    >>> backbone = load_backbone("smollm2-135m")  # doctest: +SKIP
    >>> model = LongMem(backbone, LongMemConfig())  # doctest: +SKIP
    >>> model.read(past); model.generate(present, max_new_tokens=20)  # doctest: +SKIP
    """

    config_class = LongMemConfig
    bank_options = ("memory_layer", "chunk_size", "segment_size", *STORAGE_OPTIONS)
    num_networks = 2
    card = Card(
        "Wang et al., 2023, arXiv:2306.07174",
        "long-text perplexity, in-context learning from thousands of remembered demonstrations",
        "separate rows, masks, identity start, RoPE backbones by position-free keys, a pointer that copies",
        needs_training=True,
    )

    def __init__(self, backbone: Backbone, config: LongMemConfig):
        layer = config.resolved_memory_layer(backbone.view.num_layers)
        shared = config.shared_memory
        super().__init__(backbone, config, memory_layer=layer, chunk_size=config.chunk_size, shared_memory=shared)
        self.sidenet = SideNet(backbone.view, config).to(backbone.device)
        self.uses_memory = config.use_memory
        self.weighs_every_token = config.backbone_share

    @property
    def trained_module(self) -> nn.Module:
        return self.sidenet

    def local_share(self) -> Tensor | None:
        return self.sidenet.local_share()

    # scoring

    def score(self, window: Window) -> Scored:
        past, stream = self.past_of(window), window.stream
        driver = self._driver(past, None if stream is None else stream.caches[1])
        if stream is not None and self.weighs_every_token:
            logits, keys, values = self._run_with_backbone(driver, window, stream)
        else:
            logits, keys, values = self.run((driver,), window)
        if isinstance(driver.observer, KeyValueTap):
            assert driver.observer.keys is not None and driver.observer.values is not None
            keys, values = driver.observer.keys, driver.observer.values
        most = 0 if window.memory is None else self.method_config.pointer_window_tokens
        if self.sidenet.pointer is not None and (past or most):
            logits = self._copy(logits, driver, held_columns(window, keys), past, most)
        return Scored(logits, keys, values)

    def _run_with_backbone(self, driver: SideNetDriver, window: Window, stream: Stream) -> Scored:
        """`run`, with the backbone's own words mixed in, and what the new tokens tell of either noted in the stream."""
        driver.backbone_norm = self.backbone.view.final_norm
        fresh = window.mask[:, -window.ids.shape[1] :] if window.fresh is None else window.fresh
        columns = fresh.shape[1] - int(fresh.int().argmax(dim=1).min())  # from the first new token of any row on
        columns = max(columns, window.keep or fresh.shape[1])
        noted = 0 if self.tracing is None else len(self.tracing.steps)
        logits, keys, values = self.run((driver,), window._replace(keep=columns))
        side, backbone = logits.chunk(2)
        ids, fresh = window.ids[:, -columns:], fresh[:, -columns:]
        held = [stream.carried[name] for name in EVIDENCE if name in stream.carried]
        mixed, shares, evidence = mix_with_backbone(side, backbone, ids, fresh, Evidence(*held) if held else None)
        stream.carried.update(zip(EVIDENCE, evidence, strict=True))
        if self.tracing is not None:
            self.tracing.scale(1 - shares, since=noted)
        return Scored(mixed[:, -window.keep :], keys, values)

    def _driver(self, past: LayeredBank | None, cache: Any, stop: bool = False) -> SideNetDriver:
        """The SideNet beside the backbone, reading from a past; coupled, with its own keys and values observed."""
        config, reader = self.method_config, None
        if past:
            num_chunks = config.retrieved_tokens // config.chunk_size
            reader = MemoryReader(self.sidenet.memory_layer, past, num_chunks, self.local_share(), self.tracing)
        observer = KeyValueTap(self.sidenet.memory_layer, stop) if config.coupled else None
        return SideNetDriver(self.sidenet, config, self.backbone.view.num_layers, reader, cache, observer, stop)

    def _copy(self, logits: Tensor, driver: SideNetDriver, held: Held, past: LayeredBank, most: int) -> Tensor:
        """Logits of the last tokens with what the pointer copies mixed in; of the window at most so many places."""
        pointer, scored, config = self.sidenet.pointer, logits.shape[1], self.method_config
        assert pointer is not None and driver.output is not None
        num_chunks = config.pointer_tokens // config.chunk_size
        trust, hidden = config.pointer_trust, driver.output[:, -scored:]
        return copy_from_memory(pointer, logits, hidden, held, past, num_chunks, most, trust, self.tracing)

    # remembering

    @torch.no_grad()
    def encode_keys_values(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if not self.method_config.coupled:
            return super().encode_keys_values(ids, mask)
        driver = self._driver(None, None, stop=True)
        with attach(self.backbone.view, driver), suppress(StopForward):
            self.encode_alone(ids, mask)
        tap = driver.observer
        assert isinstance(tap, KeyValueTap) and tap.keys is not None and tap.values is not None
        return tap.keys, tap.values

    def before_remembering(self, keys: Tensor, mask: Tensor) -> None:
        """What training remembers first tells the pointer where keys lie; all processes take the first one's."""
        pointer = self.sidenet.pointer
        if pointer is None or not self.training or pointer.is_calibrated:
            return
        pointer.calibrate(keys.detach(), mask)
        if distributed.is_initialized():
            for tensor in (pointer.center, pointer.spread):
                distributed.broadcast(tensor.data, src=0)

    def writing_state(self) -> dict[str, Tensor]:
        return dict(self.sidenet.state_dict()) if self.method_config.coupled else {}

    def load_trained_state(self, state: dict[str, Tensor], source: str) -> None:
        """pointer=False leaves out the pointer of weights that were trained with one."""
        if not self.method_config.pointer:
            state = {name: tensor for name, tensor in state.items() if not name.startswith("pointer.")}
        super().load_trained_state(state, source)

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        self.sidenet.checkpointing = True
