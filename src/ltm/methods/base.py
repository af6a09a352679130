"""Method: one published way of remembering, as five verbs around a frozen backbone.

`read` takes the past in, `forward` scores present tokens given it, `generate` is transformers' own, `reset` forgets,
`save_pretrained` / `from_pretrained` keep what was trained. The base owns everything that methods share: the stream of
windows (see `ltm.cache.MemoryCache`), rows and padding, the loss, generation, saving. A method supplies `encode` (one
window through the networks) and, if it remembers what leaves the window, `spill`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

import ltm
from ltm.backbone import Backbone, Fingerprint
from ltm.backbone.builtin import BUILTIN_MODELS
from ltm.backbone.turns import model_lock
from ltm.cache import MemoryCache
from ltm.compat import CACHE_NAME, CausalOutput, GenerationMixin, cache_argument, causal_output, take_cache
from ltm.errors import BankMismatchError, ConfigError, LtmError
from ltm.lasting import lasting_tensors
from ltm.methods import storage
from ltm.methods.banks import check_unchanged
from ltm.methods.inputs import check_positions, check_token_types, left_padded
from ltm.methods.loss import next_token_loss
from ltm.methods.registry import config_from_options, method_class
from ltm.methods.trace import Trace

if TYPE_CHECKING:
    from ltm.bank import Bank

Self = TypeVar("Self", bound="Method")

_TRACES: ContextVar[Mapping[int, Trace]] = ContextVar("traces", default=MappingProxyType({}))
_SWITCHED_OFF: ContextVar[frozenset[int]] = ContextVar("switched_off", default=frozenset())
"""Of methods by their id, while a block of `trace` or `memory_off` is open: each thread has blocks of its own."""


@dataclass(frozen=True)
class Card:
    """Where a method comes from and what to know of it: what docs/methods.md prints.

    deletion: what of a deleted document stays elsewhere in its banks; "": nothing, since no other document's entries
    were made with it in sight.
    """

    paper: str
    claim: str
    differs: str
    needs_training: bool
    deletion: str = ""


class Method(nn.Module, GenerationMixin):
    """Base of every method.

    backbone: from `load_backbone`; stays frozen and in eval mode. config: the method's frozen dataclass, kept as
    `method_config` (`config` is the backbone's own, which generate() reads).

    Rows: a batch row reads and asks its own memory row. With `memory_rows` (int64 [batch]) rows can be told which
    memory they use; without it there must be as many rows as were read, or nothing read at all.

    Threads: methods of one loaded model take turns, a whole verb at a time, and each gets what it would get alone;
    calls that belong together go into one block of `alone`.
    """

    name: ClassVar[str]
    config_class: ClassVar[type]
    card: ClassVar[Card]
    bank_options: ClassVar[tuple[str, ...]] = ()
    """Fields of the config that shape what is written to a bank: a saved one is opened with the same."""

    # what transformers' GenerationMixin looks for
    main_input_name = "input_ids"
    _is_stateful = False
    supports_gradient_checkpointing = True
    base_model_prefix = "model"

    def __init__(self, backbone: Backbone, config: Any):
        super().__init__()
        self.backbone = backbone
        self.model = backbone.model
        self.method_config = config
        self.config = backbone.model.config
        self.generation_config = copy.deepcopy(backbone.model.generation_config)
        self.bank: Bank | None = None
        self.uses_memory = True
        self.weights_path: str | None = None  # where `from_pretrained` found what was trained
        self._slides = getattr(backbone.model.config.get_text_config(), "sliding_window", None) is not None

    # what a method supplies

    def new_cache(self) -> MemoryCache:
        """An empty stream state with this method's window."""
        raise LtmError(f"{type(self).__name__} does not say how long its window is")

    def encode(self, ids: Tensor, mask: Tensor, cache: MemoryCache | None, rows: Tensor, keep: int) -> Tensor:
        """Logits [batch, keep or tokens, vocab] of one window.

        ids [batch, new tokens]; mask bool [batch, held + new tokens], False = padding; keys and values of the held
        tokens are in cache.caches (cache None: nothing is held or kept); rows [batch]: each row's memory row;
        keep: only the last `keep` tokens' logits, 0 for all.
        """
        positions = window_positions(mask)[:, -ids.shape[1] :]
        outputs = self.model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions,
            **cache_argument(None if cache is None else cache.caches[0]),
            use_cache=cache is not None,
            logits_to_keep=keep,
        )
        return outputs.logits

    def spill(self, row: int, token_ids: Tensor, columns: Tensor, cache: MemoryCache) -> None:
        """Tokens [stride] that leave a row's window, and the physical columns they had; by default they are gone."""

    def encode_leaving(self, ids: Tensor, mask: Tensor, cache: MemoryCache, rows: Tensor) -> None:
        """Encode a window [batch, tokens] of memory rows [batch] as far as `spill` needs it; by default not at all."""

    def start_stream(self, cache: MemoryCache | None, rows: Tensor) -> MemoryCache:
        """The stream that a call goes on with: the caller's, or a new one."""
        return self.new_cache() if cache is None else cache

    def take_in(
        self,
        ids: Tensor,
        mask: Tensor,
        rows: Tensor,
        documents: Sequence[int] | None,
        spans: Tensor | None,
    ) -> None:
        """What `read` does with tokens ids [batch, tokens], mask bool [batch, tokens], of memory rows [batch]."""
        raise LtmError(f"method {self.name} cannot read")

    def forget(self, rows: list[int] | None) -> None:
        """What `reset` does; None: all rows."""
        if self.bank is not None:
            self.bank.reset(rows)

    # the five verbs

    @torch.compiler.disable
    def read(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        documents: Sequence[int] | None = None,
        spans: Tensor | None = None,
        memory_rows: Tensor | None = None,
    ) -> None:
        """Take past tokens in: int64 [batch, tokens], any length; mask as transformers has it (0 = padding).

        documents: the bank's document id of each row (`bank.add_document`); spans: [batch, tokens, 2] character
        ranges in that document's text, so that what is remembered can be named later. A read that fails leaves the
        memory as it was.
        """
        mask = new_columns(attention_mask, input_ids)
        with self.alone(), self.undone_on_failure(), torch.no_grad():
            self._check_bank()
            self.take_in(input_ids, mask, self.rows_of(len(input_ids), memory_rows), documents, spans)

    @torch.compiler.disable  # Dynamo would follow the forward of a compiled method into what it cannot trace
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        cache: MemoryCache | None = None,
        use_cache: bool | None = None,
        memory_rows: Tensor | None = None,
        remember: bool = False,
        logits_to_keep: int = 0,
        return_dict: bool = True,
        past_key_values: MemoryCache | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> CausalOutput:
        """Score present tokens given what was read.

        input_ids: int64 [batch, tokens], any length: what does not fit the local window is scored in order, and
        what left the window is remembered for the rest of this stream. attention_mask: [batch, tokens] or, with
        cache, [batch, all tokens so far]. labels: [batch, tokens], shifted inside, -100 left out of the mean loss.
        cache: one of `new_cache()`, to go on with a stream (past_key_values is the older name of the same).
        remember: afterwards take the tokens in as `read` would, in the same pass (segments of their own, as in
        training). position_ids, token_type_ids: as tokenizers and collators give them; see `ltm.methods.inputs`.
        """
        cache = take_cache(cache=cache, past_key_values=past_key_values)
        mask = new_columns(attention_mask, input_ids)
        check_token_types(token_type_ids, self.model)
        if position_ids is not None:
            seen = 0 if cache is None else cache.get_seq_length()
            check_positions(position_ids, stream_mask(attention_mask, input_ids, seen), input_ids.shape[1])
        if remember and cache is not None:
            raise ConfigError("remember=True starts a window of its own; call it without a cache")
        with self.alone():
            if cache is None or not cache.get_seq_length():
                self._check_bank()
            rows = self.rows_of(len(input_ids), memory_rows)
            if remember:
                with self.undone_on_failure():
                    logits = self.score_and_read(input_ids, mask, rows)
            else:
                cache = self.start_stream(cache, rows)
                logits = self._stream(input_ids, mask, cache, rows, logits_to_keep)
            loss = None if labels is None else next_token_loss(logits, labels, mask)
        return causal_output(loss, logits, cache if use_cache else None)

    @torch.compiler.disable
    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """transformers' generate(): sampling, beams, streaming, batches; its arguments and results.

        `memory_rows` says which memory each prompt uses; beams follow their prompt.
        """
        prompt = inputs if inputs is not None else kwargs.get("input_ids")
        if prompt is None:
            raise LtmError("generate needs input_ids: int64 [batch, tokens], at least one token")
        check_token_types(kwargs.pop("token_type_ids", None), self.model)
        check_positions(
            kwargs.pop("position_ids", None), new_columns(kwargs.get("attention_mask"), prompt), prompt.shape[1]
        )
        with self.alone():
            kwargs["memory_rows"] = self.rows_of(len(prompt), kwargs.get("memory_rows"))
            cache = take_cache(cache=kwargs.pop("cache", None), past_key_values=kwargs.pop("past_key_values", None))
            kwargs[CACHE_NAME] = self.new_cache() if cache is None else cache
            was_training = self.training
            self.eval()
            try:
                return super().generate(inputs, **kwargs)
            finally:
                self.train(was_training)

    def reset(self, rows: Sequence[int] | Tensor | None = None) -> None:
        """Forget what was read: all rows, or those named."""
        with self.alone():
            self.forget(None if rows is None else [int(row) for row in rows])

    def save_pretrained(self, path: str | Path, dtype: str | None = None) -> None:
        """Write what was trained, its config and the backbone's identity to a directory; the bank is saved apart.

        dtype: 'float32' (default), 'bfloat16' or 'int8' (see `ltm.methods.storage`).
        """
        dtype = dtype or "float32"
        storage.write_directory(path, self._record(dtype), storage.pack(self.trained_state(), dtype))

    def _record(self, dtype: str) -> dict[str, Any]:
        """What is saved beside the weights."""
        return {
            "method": self.name,
            "ltm_version": ltm.__version__,
            "method_config": asdict(self.method_config),
            "backbone": self.backbone.name,
            "fingerprint": self.backbone.fingerprint.to_dict(),
            "dtype": dtype,
        }

    def state_dict(  # type: ignore[override]
        self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """What `save_pretrained` writes, weights and record in tensors, and never the frozen backbone.

        So transformers' Trainer saves what it trained: its checkpoints are resumed by it, and loaded by `load_method`.
        """
        state = {**self.trained_state(), storage.RECORD: storage.record_tensor(self._record("float32"))}
        destination = {} if destination is None else destination
        destination.update({prefix + name: tensor for name, tensor in state.items()})
        return destination

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take in what `state_dict` gave."""
        self.load_trained_state({name: t for name, t in state_dict.items() if name != storage.RECORD}, "the state dict")
        return nn.modules.module._IncompatibleKeys([], [])

    @classmethod
    def from_pretrained(
        cls: type[Self], backbone: Backbone, path: str | Path, *, trainable: bool = False, **overrides: Any
    ) -> Self:
        """A saved method on the backbone it was trained for.

        trainable: keep the weights in float32 and let them be trained on; else they are frozen in the backbone's
        dtype. overrides: fields of the config to change (memory_size=..., local_window=...). Raises LtmError where
        the directory holds another method, its files are damaged, or the backbone is another one (says what differs).
        """
        saved = storage.read_config(path)
        chosen = method_class(saved["method"]) if cls is Method else cls
        if saved["method"] != chosen.name:
            raise LtmError(f"{path} holds a {saved['method']}, not a {chosen.name}; load it with ltm.load_method")
        _check_backbone(backbone, saved, path)
        config = config_from_options(chosen.config_class, {**saved["method_config"], **overrides}, chosen.name)
        method: Any = chosen(backbone, config)
        method.load_trained_state(storage.read_tensors(path), str(path))
        method.weights_path = str(Path(path).resolve())
        if not trainable:
            method.to(backbone.dtype).requires_grad_(False).eval()
        return method

    @contextmanager
    def trace(self) -> Iterator[Trace]:
        """Record inside the block which remembered chunks each scored token used; see `ltm.methods.trace`.

        What this thread scores, or whoever runs in a copy of its context (`contextvars.copy_context().run`).
        """
        trace, before = Trace(), self._trace
        self._set_trace(trace)
        try:
            yield trace
        finally:
            self._set_trace(before)

    def _set_trace(self, trace: Trace | None) -> None:
        others = {method: other for method, other in _TRACES.get().items() if method != id(self)}
        _TRACES.set(others if trace is None else {**others, id(self): trace})

    @property
    def _trace(self) -> Trace | None:
        """What this thread records to."""
        return _TRACES.get().get(id(self))

    # threads, and what fails

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A block in which this thread has the backbone to itself; others' calls on it wait. Every verb opens one.

        What is made inside is made to last: `torch.inference_mode()` is left until the block ends.

        >>> with method.alone():  # doctest: +SKIP
        ...     method.read(past); method.generate(question)  # nobody reads anything in between
        """
        with model_lock(self.model), lasting_tensors():
            yield

    @contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        """A block that leaves the memory as it was if it ends by an exception."""
        bank = self.bank
        try:
            with nullcontext() if bank is None else bank.undone_on_failure():
                yield
        except BaseException:
            self.bank = bank
            raise

    # what training and evaluation use

    def score_and_read(self, ids: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        """Score tokens given what was read, then read them; logits [batch, tokens, vocab]."""
        logits = self._stream(ids, mask, self.start_stream(None, rows), rows, 0)
        self.read(ids, mask, memory_rows=rows)
        return logits

    @contextmanager
    def memory_off(self) -> Iterator[None]:
        """Inside the block nothing is read from memory or written to it: the method as its own baseline. Methods whose
        past is no memory beside the window go on as before. For this thread alone, as `trace`."""
        before = id(self) in _SWITCHED_OFF.get()
        _SWITCHED_OFF.set(_SWITCHED_OFF.get() | {id(self)})
        try:
            yield
        finally:
            if not before:
                _SWITCHED_OFF.set(_SWITCHED_OFF.get() - {id(self)})

    @property
    def _memory_on(self) -> bool:
        """Whether this thread's calls read from memory and write to it."""
        return self.uses_memory and id(self) not in _SWITCHED_OFF.get()

    def gate_summary(self) -> dict[str, float]:
        """Figures about how much memory is used, for the training log."""
        return {}

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """What training changes; everything else is frozen."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    @property
    def num_trainable(self) -> int:
        return sum(parameter.numel() for parameter in self.trainable_parameters())

    def trained_state(self) -> dict[str, Tensor]:
        """The tensors that `save_pretrained` writes, by name."""
        return {}

    def load_trained_state(self, state: dict[str, Tensor], source: str) -> None:
        """Take in what `trained_state` gave."""
        if state:
            raise LtmError(f"{source} holds weights, but {self.name} has none")

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute activations in the backward pass instead of keeping them; nothing to do by default."""

    def _check_bank(self) -> None:
        """Refuse a bank of a backbone that has changed or moved since; one that is empty is made anew by the next
        read."""
        if self.bank is None or not self._memory_on:
            return
        try:
            check_unchanged(self.bank, self.backbone)
        except BankMismatchError:
            if len(self.bank.document_registry) or any(map(self.bank.num_tokens, range(self.bank.num_rows))):
                raise
            self.bank = None

    # rows

    @property
    def num_rows(self) -> int:
        """Memory rows that hold something; 0 before the first read."""
        return 0 if self.bank is None else self.bank.num_rows

    def rows_of(self, batch: int, memory_rows: Tensor | Sequence[int] | None) -> Tensor:
        """Which memory row each batch row uses, int64 [batch]."""
        if memory_rows is None:
            if self.num_rows not in (0, batch):
                raise LtmError(
                    f"{batch} rows came but {self.num_rows} were read; give memory_rows=[...], the memory row of each"
                )
            return torch.arange(batch, device=self.device)
        rows = torch.as_tensor(memory_rows, dtype=torch.long, device=self.device)
        if rows.shape != (batch,):
            raise LtmError(
                f"memory_rows has shape {list(rows.shape)}; it needs one row number for each of {batch} rows"
            )
        if self.num_rows and not 0 <= int(rows.min()) <= int(rows.max()) < self.num_rows:
            raise LtmError(f"memory_rows={rows.tolist()} but the memory has rows 0 to {self.num_rows - 1}")
        return rows

    # the stream of windows

    def _stream(self, ids: Tensor, mask: Tensor, cache: MemoryCache, rows: Tensor, keep: int) -> Tensor:
        """Logits of new tokens, piece by piece: as many columns as fit, then full rows spill, and on."""
        if ids.shape[1] == 0:
            raise LtmError("no tokens came; give at least one")
        cache.begin(len(ids), ids.device)
        pieces, start = [], 0
        while start < ids.shape[1]:
            columns = cache.columns_that_fit(mask[:, start:])
            if columns == 0:
                self._make_room(mask[:, start], cache)
                continue
            piece = slice(start, start + columns)
            start += columns
            wanted = min(max(keep - (ids.shape[1] - start), 0), columns)  # of the last `keep`, those in this piece
            if keep and not wanted and start < ids.shape[1] and self._trace is None:
                self._pass_over(ids[:, piece], mask[:, piece], cache, rows)
                continue
            logits = self._advance(ids[:, piece], mask[:, piece], cache, rows, (wanted or 1) if keep else 0)
            if wanted or not keep:
                pieces.append(logits[:, -wanted:])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    def _make_room(self, incoming: Tensor, cache: MemoryCache) -> None:
        """Let every full row that gets another token spill its oldest tokens."""
        for row in cache.full_rows(incoming):
            columns = cache.columns_of(row)[cache.num_sinks : cache.num_sinks + cache.stride]
            self.spill(row, cache.drop_oldest(row), columns, cache)

    def _pass_over(self, ids: Tensor, mask: Tensor, cache: MemoryCache, rows: Tensor) -> None:
        """Take new columns in that fill the window, so that it moves on next, and whose logits nobody wants.

        What stays of a moved window is encoded anew, so only what will leave has to be known: see `encode_leaving`.
        """
        cache.append(ids, mask)
        window_ids, window_mask = cache.context()
        cache.clear_keys()
        cache.valid = window_mask
        self.encode_leaving(window_ids, window_mask, cache, rows)

    def _advance(self, ids: Tensor, mask: Tensor, cache: MemoryCache, rows: Tensor, keep: int) -> Tensor:
        """Run new columns after the window's; a stale window is encoded anew in the same pass."""
        if self._slides and cache.holds_tokens and not bool(mask.all()):
            return self._advance_packed(ids, mask, cache, rows)
        new = ids.shape[1]
        cache_ids, cache_mask = ids, torch.cat((cache.valid, mask), dim=1)
        if cache.stale:
            context_ids, context_mask = cache.context()
            cache.clear_keys()
            cache_ids, cache_mask = (
                torch.cat((context_ids, ids), dim=1),
                torch.cat((context_mask, mask), dim=1),
            )
        noted = 0 if self._trace is None else len(self._trace.steps)
        logits = self.encode(cache_ids, cache_mask, cache, rows, keep or (new if cache_ids is not ids else 0))
        if self._trace is not None:
            self._trace.keep_last(new, since=noted)
        cache.valid = cache_mask
        cache.append(ids, mask)
        cache.stale = self._slides and not bool(mask[:, -1].all())
        return logits

    def _advance_packed(self, ids: Tensor, mask: Tensor, cache: MemoryCache, rows: Tensor) -> Tensor:
        """The same where padding would end up between tokens of a row: each row is packed and encoded anew.

        transformers counts sliding windows in columns, so that such padding would eat into them.
        """
        cache.append(ids, mask)
        packed_ids, packed_mask = cache.context()
        cache.clear_keys()
        longest = int(mask.sum(dim=1).max())
        packed = self.encode(packed_ids, packed_mask, cache, rows, max(longest, 1))
        cache.valid = packed_mask
        logits = packed.new_zeros(*ids.shape, packed.shape[-1])
        for row, valid in enumerate(mask):
            logits[row, valid] = packed[row, packed.shape[1] - int(valid.sum()) :]
        return logits

    # what transformers' generate() asks

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """The tokens the cache has not seen yet, and what forward needs beside them."""
        cache, mask = kwargs[CACHE_NAME], kwargs.get("attention_mask")
        ids = input_ids[:, cache.get_seq_length() :]
        if mask is not None and not cache.get_seq_length():
            ids, mask = left_padded(ids, mask)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "cache": cache,
            "use_cache": True,
            "memory_rows": kwargs.get("memory_rows"),
            "logits_to_keep": 1,
        }

    def can_generate(self) -> bool:
        return True

    def get_experts_implementation(self) -> Any:
        """generate() asks this of every model, to speed up mixtures of experts while decoding."""
        return self.model.get_experts_implementation()

    def set_experts_implementation(self, implementation: Any) -> None:
        self.model.set_experts_implementation(implementation)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    @property
    def max_stream_tokens(self) -> int | None:
        """Most tokens that one stream can hold, what was read included; None: no end."""
        return None

    @property
    def stream_bytes_per_token(self) -> float | None:
        """Bytes that each token takes in a stream without an end: keys and values of all layers; None where the stream
        has a window."""
        if self.new_cache().window is not None:
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


def window_positions(mask: Tensor) -> Tensor:
    """Positions within the window from a mask bool [batch, tokens]: valid tokens count from 0, padding sits at 0."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def new_columns(attention_mask: Tensor | None, input_ids: Tensor) -> Tensor:
    """bool [batch, new tokens] from what the caller gave (maybe the mask of the whole stream)."""
    if input_ids.dim() != 2:
        raise LtmError(f"input_ids has shape {list(input_ids.shape)}; it needs [batch, tokens]")
    if attention_mask is None:
        return torch.ones_like(input_ids, dtype=torch.bool)
    if attention_mask.dim() != 2 or attention_mask.shape[1] < input_ids.shape[1]:
        raise LtmError(f"attention_mask {list(attention_mask.shape)} does not cover input_ids {list(input_ids.shape)}")
    return attention_mask[:, -input_ids.shape[1] :].bool()


def stream_mask(attention_mask: Tensor | None, input_ids: Tensor, seen: int) -> Tensor:
    """bool [batch, seen + new tokens]: the caller's mask of the whole stream; where it is of the new columns alone,
    what came before counts as tokens."""
    if attention_mask is not None and attention_mask.shape[1] == seen + input_ids.shape[1]:
        return attention_mask.bool()
    new = new_columns(attention_mask, input_ids)
    return torch.cat((new.new_ones(len(new), seen), new), dim=1)


def _check_backbone(backbone: Backbone, saved: dict[str, Any], path: str | Path) -> None:
    """Refuse a backbone that the weights were not trained for; another dtype of the same weights is fine."""
    trained_for = Fingerprint.from_dict({**saved["fingerprint"], "dtype": backbone.fingerprint.dtype})
    differences = trained_for.differences(backbone.fingerprint)
    built_in = backbone.name == saved.get("backbone") and backbone.name in BUILTIN_MODELS
    if built_in and all(line.startswith("weights") for line in differences):
        if differences:  # a built-in name whose weights came from the hub instead of the package: rounded otherwise
            warnings.warn(f"{path} was trained for other copies of these weights: {differences[0]}", stacklevel=3)
        return
    if differences:
        raise LtmError(
            f"{path} was trained for {(saved.get('backbone') or 'another backbone')[:100]}: {'; '.join(differences)}; "
            "load that backbone, or train for this one with `ltm train`"
        )
