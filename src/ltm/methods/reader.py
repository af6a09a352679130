"""Reader: base of every method that reads tokens into a memory and scores tokens with it.

`read` takes the past in, `forward` scores present tokens given it, `generate` is transformers' own, `reset` forgets.
The base owns everything that such methods share: the stream of windows (`ltm.streams.Stream`), rows and padding, the
loss, generation. A method supplies `encode` (one window through the networks), `take_in` (what reading does) and, if it
remembers what leaves the window, `spill`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from ltm.backbone import Backbone
from ltm.backbone.turns import lock_of
from ltm.compat import CACHE_NAME, CausalOutput, cache_argument, causal_output, take_cache
from ltm.errors import ConfigError, LtmError
from ltm.lasting import lasting_tensors
from ltm.memory import LEFT_OUT, LeftOut, Memory
from ltm.methods.banks import check_unchanged
from ltm.methods.generating import Generating
from ltm.methods.inputs import check_positions, check_token_types
from ltm.methods.loss import next_token_loss
from ltm.methods.saving import TrainedMethod
from ltm.methods.trace import Trace
from ltm.streams import Past, Stream, Window
from ltm.streams.masks import new_columns, stream_mask, window_positions
from ltm.streams.open_stream import OpenStream

Self = TypeVar("Self", bound="Reader")

_TRACES: ContextVar[Mapping[int, Trace]] = ContextVar("traces", default=MappingProxyType({}))
"""Of methods by their id, while a block of `trace` is open: each thread has blocks of its own."""


class Reader(TrainedMethod, Generating):
    """Base of methods around a backbone that read and score tokens.

    backbone: from `load_backbone`; stays frozen and in eval mode. config: the method's frozen dataclass, kept as
    `method_config` (`config` is the backbone's own, which generate() reads).

    Memory: `memory=` of every call, from `new_memory`; left out, the method's own. A stream goes on with the memory it
    began with.

    Rows: a batch row reads and asks its own memory row. With `memory_rows` (int64 [batch]) rows can be told which
    memory row they use; without it there must be as many rows as were read, or nothing read at all.

    Threads: methods of one loaded model take turns, a whole verb at a time, and each gets what it would get alone, with
    memories of their own or one for all; calls that belong together go into one block of `alone`.
    """

    bank_options: ClassVar[tuple[str, ...]] = ()
    """Fields of the config that shape what is written to a bank: a saved one is opened with the same."""
    weighs_every_token: bool = False
    """What a stream gives depends on how well each of its earlier tokens was predicted: none is passed over, also where
    only the last logits are asked for."""

    def __init__(self, backbone: Backbone, config: Any):
        super().__init__(backbone, config)
        self.config = backbone.model.config
        self.generation_config = copy.deepcopy(backbone.model.generation_config)
        self.slides = getattr(self.config.get_text_config(), "sliding_window", None) is not None

    # what a method supplies

    def new_stream(self) -> Stream:
        """An empty stream with this method's window."""
        raise LtmError(f"{type(self).__name__} does not say how long its window is")

    def encode(self, window: Window) -> Tensor:
        """Logits [batch, keep or tokens, vocab] of one window."""
        stream, new = window.stream, window.ids.shape[1]
        return self.model(
            input_ids=window.ids,
            attention_mask=window.mask.long(),
            position_ids=window_positions(window.mask)[:, -new:],
            **cache_argument(None if stream is None else stream.caches[0]),
            use_cache=stream is not None,
            logits_to_keep=window.keep,
        ).logits

    def spill(self, row: int, token_ids: Tensor, columns: Tensor, stream: Stream) -> None:
        """Tokens [stride] that leave a row's window, and the physical columns they had; by default they are gone."""

    def encode_leaving(self, window: Window) -> None:
        """Encode a window as far as `spill` needs it; by default not at all."""

    def start_stream(self, stream: Stream | None, rows: Tensor, memory: Any) -> Stream:
        """The stream that a call goes on with: the caller's, or a new one; memory None: it is off."""
        return self.new_stream() if stream is None else stream

    def take_in(self, past: Past, memory: Any) -> None:
        """What `read` does."""
        raise LtmError(f"method {self.name} cannot read")

    def score_and_read(self, past: Past, memory: Any) -> Tensor:
        """Score tokens given what was read, then read them; logits [batch, tokens, vocab]. memory None: it is off."""
        stream = self.start_stream(None, past.rows, memory)
        stream.memory = memory
        logits = stream.run(self, past.ids, past.mask, past.rows)
        if memory is not None:
            self.take_in(past, memory)
        return logits

    # the verbs

    @torch.compiler.disable
    def read(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        documents: Sequence[int] | None = None,
        spans: Tensor | None = None,
        memory: Memory | LeftOut | None = LEFT_OUT,
        memory_rows: Tensor | None = None,
    ) -> None:
        """Take past tokens in: int64 [batch, tokens], any length; mask as transformers has it (0 = padding).

        documents: the bank's document id of each row (`bank.add_document`); spans: [batch, tokens, 2] character
        ranges in that document's text, so that what is remembered can be named later. A read that fails leaves the
        memory as it was.
        """
        mask = new_columns(attention_mask, input_ids)
        with self.alone(memory), torch.no_grad():
            chosen = self.memory_for(memory)
            rows = self.rows_of(len(input_ids), memory_rows, chosen)
            if chosen is not None:
                with chosen.undone_on_failure():
                    self.take_in(Past(input_ids, mask, rows, documents, spans), chosen)

    @torch.compiler.disable  # Dynamo would follow the forward of a compiled method into what it cannot trace
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        cache: Stream | None = None,
        use_cache: bool | None = None,
        memory: Memory | LeftOut | None = LEFT_OUT,
        memory_rows: Tensor | None = None,
        remember: bool = False,
        logits_to_keep: int = 0,
        return_dict: bool = True,
        past_key_values: Stream | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> CausalOutput:
        """Score present tokens given what was read.

        input_ids: int64 [batch, tokens], any length: what does not fit the local window is scored in order, and
        what left the window is remembered for the rest of this stream. attention_mask: [batch, tokens] or, with
        cache, [batch, all tokens so far]. labels: [batch, tokens], shifted inside, -100 left out of the mean loss.
        cache: one of `new_cache()`, to go on with a stream (past_key_values is the older name of the same).
        memory: what was read; left out, what the stream began with or the method's own; None: none.
        remember: afterwards take the tokens in as `read` would, in the same pass (segments of their own, as in
        training). position_ids, token_type_ids: as tokenizers and collators give them; see `ltm.methods.inputs`.
        """
        stream = take_cache(cache=cache, past_key_values=past_key_values)
        mask = new_columns(attention_mask, input_ids)
        check_token_types(token_type_ids, self.model)
        if position_ids is not None:
            seen = 0 if stream is None else stream.get_seq_length()
            check_positions(position_ids, stream_mask(attention_mask, input_ids, seen), input_ids.shape[1])
        if remember and stream is not None:
            raise ConfigError("remember=True starts a window of its own; call it without a cache")
        goes_on = stream is not None and stream.get_seq_length() > 0
        given = stream.given if goes_on and isinstance(memory, LeftOut) else memory
        with self.alone(given):
            chosen = self._memory_of(stream, given) if goes_on else self.memory_for(given)
            rows = self.rows_of(len(input_ids), memory_rows, chosen)
            if remember:
                with nullcontext() if chosen is None else chosen.undone_on_failure():
                    logits = self.score_and_read(Past(input_ids, mask, rows), chosen)
            else:
                stream = self.start_stream(stream, rows, chosen)
                stream.memory, stream.given = chosen, given
                logits = stream.run(self, input_ids, mask, rows, logits_to_keep)
            loss = None if labels is None else next_token_loss(logits, labels, mask)
        return causal_output(loss, logits, stream if use_cache else None)

    @torch.compiler.disable
    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """transformers' generate(): sampling, beams, streaming, batches; its arguments and results.

        `memory`: what was read (left out, the method's own; None: none); `memory_rows` says which of its rows each
        prompt uses; beams follow their prompt.
        """
        prompt = inputs if inputs is not None else kwargs.get("input_ids")
        if prompt is None:
            raise LtmError("generate needs input_ids: int64 [batch, tokens], at least one token")
        check_token_types(kwargs.pop("token_type_ids", None), self.model)
        check_positions(
            kwargs.pop("position_ids", None), new_columns(kwargs.get("attention_mask"), prompt), prompt.shape[1]
        )
        given = kwargs.setdefault("memory", LEFT_OUT)
        with self.alone(given):
            kwargs["memory_rows"] = self.rows_of(
                len(prompt), kwargs.get("memory_rows"), self.memory_for(given, look=False)
            )
            stream = take_cache(cache=kwargs.pop("cache", None), past_key_values=kwargs.pop("past_key_values", None))
            kwargs[CACHE_NAME] = self.new_stream() if stream is None else stream
            was_training = self.training
            self.eval()
            try:
                return super().generate(inputs, **kwargs)
            finally:
                self.train(was_training)

    def reset(self, rows: Sequence[int] | Tensor | None = None, *, memory: Memory | LeftOut = LEFT_OUT) -> None:
        """Forget what was read: all rows of a memory, or those named."""
        with self.alone(memory):
            chosen = self._memory if isinstance(memory, LeftOut) else memory
            if chosen is not None and chosen.num_rows:
                self.forget(chosen, None if rows is None else [int(row) for row in rows])

    def stream(self, memory: Memory | LeftOut | None = LEFT_OUT, rows: Sequence[int] = (0,)) -> OpenStream:
        """A batch of token streams that go on from these rows of a memory; see `OpenStream`."""
        return OpenStream(self, self.new_stream(), memory, rows)

    def new_cache(self) -> Stream:
        """An empty stream, to be given as `cache` from call to call."""
        return self.new_stream()

    # memory

    @property
    def bank(self) -> Any:
        """The bank of the method's own memory; None before anything was read."""
        return None if self._memory is None or not self._memory.num_rows else self._memory.bank

    def use_bank(self, bank: Any) -> None:
        """Remember with this bank, saved or shared. Raises BankMismatchError where it is another's."""
        with self.alone():
            self.memory = self.memory_in(bank)

    def new_bank(self, num_rows: int) -> Any:
        """An empty bank of this method, with so many rows."""
        raise LtmError(f"method {self.name} keeps no bank")

    def memory_in(self, bank: Any) -> Memory:
        """The memory that lies in a bank: what is read with it is noted there, document by document."""
        raise LtmError(f"method {self.name} keeps no bank")

    def forget(self, memory: Any, rows: list[int] | None) -> None:
        """What `reset` does; rows None: all."""
        memory.reset(rows)

    def load_memory(self, path: str | Path, *, mmap: bool = True) -> Any:
        """A saved memory of this method, on its device. Raises LtmError where it is another's or damaged. mmap: what is
        large may stay in its files until it is used."""
        memory = self.memory_class.load(path, device=self.device, mmap=mmap)
        self.admit(memory)
        return memory

    def check_unchanged(self, memory: Any) -> None:
        check_unchanged(memory, self)

    def _memory_of(self, stream: Any, given: Memory | LeftOut | None) -> Any:
        """What a stream that goes on reads: its memory was looked at when it began."""
        if isinstance(given, LeftOut):
            return None if self.is_off else self._memory if stream.memory is None else stream.memory
        return given

    # rows

    @property
    def num_rows(self) -> int:
        """Rows of the method's own memory; 0 before the first read."""
        return self.rows_in(None if self.is_off else self._memory)

    def rows_in(self, memory: Any) -> int:
        """How many rows a batch must have for this memory; 0: any."""
        return 0 if memory is None else memory.num_rows

    def rows_of(self, batch: int, memory_rows: Tensor | Sequence[int] | None, memory: Any = None) -> Tensor:
        """Which row of a memory each batch row uses, int64 [batch]."""
        num_rows = self.rows_in(memory)
        if memory_rows is None:
            if num_rows not in (0, batch):
                raise LtmError(
                    f"{batch} rows came but {num_rows} were read; give memory_rows=[...], the memory row of each"
                )
            return torch.arange(batch, device=self.device)
        rows = torch.as_tensor(memory_rows, dtype=torch.long, device=self.device)
        if rows.shape != (batch,):
            raise LtmError(
                f"memory_rows has shape {list(rows.shape)}; it needs one row number for each of {batch} rows"
            )
        if num_rows and not 0 <= int(rows.min()) <= int(rows.max()) < num_rows:
            raise LtmError(f"memory_rows={rows.tolist()} but the memory has rows 0 to {num_rows - 1}")
        return rows

    # threads and traces

    @contextmanager
    def alone(self, memory: Memory | LeftOut | None = LEFT_OUT) -> Iterator[None]:
        """A block in which this thread has the backbone to itself, and the memory; others' calls on them wait. Every
        verb opens one.

        What is made inside is made to last: `torch.inference_mode()` is left until the block ends.

        >>> with method.alone():  # doctest: +SKIP
        ...     method.read(past); method.generate(question)  # nobody reads anything in between
        """
        with lock_of(self.model), lasting_tensors():
            held = self._memory if isinstance(memory, LeftOut) else memory
            with nullcontext() if held is None else lock_of(held):
                yield

    @contextmanager
    def trace(self) -> Iterator[Trace]:
        """Record inside the block which remembered chunks each scored token used; see `ltm.methods.trace`.

        What this thread scores, or whoever runs in a copy of its context (`contextvars.copy_context().run`).
        """
        trace, before = Trace(), self.tracing
        self._set_trace(trace)
        try:
            yield trace
        finally:
            self._set_trace(before)

    def _set_trace(self, trace: Trace | None) -> None:
        others = {method: other for method, other in _TRACES.get().items() if method != id(self)}
        _TRACES.set(others if trace is None else {**others, id(self): trace})

    @property
    def tracing(self) -> Trace | None:
        """What this thread records to."""
        return _TRACES.get().get(id(self))

    # what training asks

    def gate_summary(self) -> dict[str, float]:
        """Figures about how much memory is used, for the training log."""
        return {}

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute activations in the backward pass instead of keeping them; nothing to do by default."""

    # what is known of a stream and the model

    @property
    def max_stream_tokens(self) -> int | None:
        """Most tokens that one stream can hold, what was read included; None: no end."""
        return None

    @property
    def stream_bytes_per_token(self) -> float | None:
        """Bytes that each token takes in a stream without an end: keys and values of all layers; None where the stream
        has a window."""
        if self.new_stream().window is not None:
            return None
        view = self.backbone.view
        return float(2 * view.num_layers * view.num_kv_heads * view.head_dim * self.dtype.itemsize)

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    @property
    def dtype(self) -> torch.dtype:
        return self.backbone.dtype

    def train(self: Self, mode: bool = True) -> Self:
        """Training mode for what is trained; the backbone stays in eval mode."""
        super().train(mode)
        self.model.eval()
        return self
