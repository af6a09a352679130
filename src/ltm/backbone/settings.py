"""What decides a model's hidden states beside its weights: settings of its config, and what its modules hold now."""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from ltm.backbone.view import BackboneView

# Of a config's own fields, those that change no hidden state: how a model was trained, where its positions end, what
# it is told of tokens, and what other fields of the fingerprint say.
_IDLE = {
    "initializer_range",
    "init_std",
    "tie_word_embeddings",
    "use_cache",
    "layerdrop",
    "is_decoder",
    "pretraining_tp",
}
_IDLE |= {"bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings", "n_positions"}
_IDLE |= {"vocab_size", "hidden_size", "head_dim", "num_attention_heads", "num_hidden_layers", "num_key_value_heads"}
_IDLE |= {"n_embd", "n_head", "n_layer", "rope_parameters"}
_IDLE_ENDINGS = ("dropout", "_pdrop")

# What modules read of their own while they run, whatever their config says now: libraries and users set them in place.
_HELD: tuple[str, ...] = (
    "eps",
    "variance_epsilon",
    "scaling",
    "sliding_window",
    "attn_logit_softcapping",
    "is_causal",
    "rotary_ndims",
)
_HELD += ("attention_scaling", "_active_adapter", "_disable_adapters", "merged_adapters")
_ACTIVATIONS = {"act", "act_fn", "activation_fn"}

# Whose modules and forwards are the model itself, or move it about.
_KNOWN = {"torch", "transformers", "transformers_modules", "accelerate", "kernels", "ltm"}

# What caches and masks ask of every config, whether its class has it or not.
_READ_OF_ANY = ("sliding_window", "layer_types", "attention_chunk_size")

ANGLES = "rotary angles"
NUMBER_TOLERANCE = 1e-6
ANGLE_TOLERANCE = 0.01
"""Frequencies that were rounded to bfloat16 are off by 0.4%."""


def settings_of(view: BackboneView) -> dict[str, Any]:
    """The settings by name, in JSON values; a fraction of a millisecond for each hundred modules.

    Named are fields of the model's config class, 'quantization', ANGLES, and what modules hold ('modules: eps', every
    value that one of them has). 'added' counts what is no part of the model's class: modules (adapters), and forwards
    put in the place of a module's own.
    """
    config = view.config
    names = {*filter(_counts, _own_fields(config)), *_READ_OF_ANY}
    settings = {name: getattr(config, name, None) for name in names}
    settings |= {"quantization": _quantization(view.model.config), ANGLES: _angles(view)}
    settings |= _held(view.model)
    return json.loads(json.dumps(settings, sort_keys=True, default=str))


def setting_differences(bank: dict[str, Any], backbone: dict[str, Any]) -> list[str]:
    """One line for each setting that both know, and in which they differ: other versions know more or fewer."""
    return [
        f"{name}: bank {_short(bank[name])}, backbone {_short(backbone[name])}"
        for name in bank
        if name in backbone
        and not _same(bank[name], backbone[name], ANGLE_TOLERANCE if name == ANGLES else NUMBER_TOLERANCE)
    ]


def _own_fields(config: Any) -> list[str]:
    """Fields that a model's config class has beyond what every config has, or all values of one that declares none."""
    common = {field.name for field in fields(PreTrainedConfig)}
    declared = {field.name for field in fields(config)} - common
    return sorted((declared or vars(config).keys() - common) - _IDLE)


def _counts(name: str) -> bool:
    return not name.startswith("_") and not name.endswith(_IDLE_ENDINGS)


def _quantization(config: Any) -> Any:
    own = getattr(config, "quantization_config", None)
    return own.to_dict() if own is not None and hasattr(own, "to_dict") else own


def _angles(view: BackboneView) -> list[list[float]] | None:
    """Sines at position 1 of the first, middle and last channel that rotate, for each speed that layers have."""
    kinds = getattr(view.config, "layer_types", None) or ["all"]
    found = []
    for layer in sorted({kinds.index(kind) for kind in kinds}):
        angles = view.angles(torch.ones(1, 1, dtype=torch.long, device=view.model.device), layer, torch.float32)
        if angles is None or angles[1].is_meta:  # not in memory, as whoever looks at the weights will say
            return None
        sines = angles[1][0, 0, : angles[1].shape[-1] // 2].tolist()
        found.append([sines[place] for place in (0, len(sines) // 2, -1)] if sines else [])
    return found


def _held(model: nn.Module) -> dict[str, Any]:
    """What modules have under the names of _HELD, and what is no part of the model's class."""
    values: dict[str, dict[str, Any]] = {}
    added: Counter[str] = Counter()
    own = type(model).__module__.partition(".")[0]
    for path, module in model.named_modules():
        held = vars(module)
        for name in _HELD:
            if name in held:
                values.setdefault(name, {})[str(held[name])] = held[name]
        if path.rpartition(".")[2] in _ACTIVATIONS:
            values.setdefault("activation", {})[type(module).__name__] = type(module).__name__
        added.update(name for name in _strangers(module) if name.partition(".")[0] not in _KNOWN | {own})
    held_values = {f"modules: {name}": [value for _, value in sorted(found.items())] for name, found in values.items()}
    return {**held_values, "added": dict(added)}


def _strangers(module: nn.Module) -> Iterator[str]:
    """Where a module's class, and a forward that was put in the place of its class's, come from. Hooks are left out:
    most only watch."""
    yield _origin(type(module))
    if "forward" in vars(module):
        yield f"{_origin(vars(module)['forward'])} (forward)"


def _origin(what: Callable[..., Any]) -> str:
    while isinstance(what, functools.partial):
        what = what.func
    kind = what if hasattr(what, "__qualname__") else type(what)
    return f"{kind.__module__}.{kind.__qualname__}"


def _same(one: Any, other: Any, tolerance: float) -> bool:
    """Whether JSON values are equal, numbers but for a share: files keep some of them in float32."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(a, b, tolerance) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name], tolerance) for name in one)
    if isinstance(one, float) and isinstance(other, (int, float)):
        return one == other or math.isclose(one, other, rel_tol=tolerance)
    return one == other


def _short(value: Any) -> str:
    if isinstance(value, dict):
        text = ", ".join(f"{name}: {part}" for name, part in value.items()) or "none"
    else:
        text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
