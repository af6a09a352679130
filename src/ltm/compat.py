"""Everything of transformers that has moved between versions: names, and what behaves otherwise.

Told by what is there, not by version numbers, so that a release between two that were tried is right as well. What we
ask of transformers beside these names is in tests/test_canaries.py, one test each.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, fields
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.masking_utils import sdpa_mask
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ltm.errors import ConfigError

__all__ = [
    "ALL_ATTENTION_FUNCTIONS",
    "CACHE_NAME",
    "AttentionInterface",
    "AttentionMaskInterface",
    "Cache",
    "CausalOutput",
    "DynamicCache",
    "DynamicLayer",
    "GenerationMixin",
    "PreTrainedModel",
    "cache_argument",
    "cache_of",
    "causal_output",
    "cpu_has_fast_bf16",
    "get_attention_name",
    "heed_softcap",
    "gguf_architectures",
    "take_cache",
    "tell_gguf_version",
    "sdpa_mask",
    "set_attention_name",
    "transformers_version",
]

transformers_version: str = transformers.__version__

CACHE_NAME: str = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"
"""What models, their outputs and generate() call the cache: past_key_values until 5.23, cache from 5.24 on."""


def cache_argument(cache: Any) -> dict[str, Any]:
    """The cache as a keyword argument of a transformers model, under this version's name.

    >>> model(input_ids, **cache_argument(DynamicCache()), use_cache=True)  # doctest: +SKIP
    """
    return {CACHE_NAME: cache}


def cache_of(output: Any) -> Any:
    """The cache that a transformers model gave back; None where it gave none."""
    return getattr(output, CACHE_NAME)


def take_cache(**given: Any) -> Any:
    """The cache among arguments that may use either name; ConfigError where both came and differ."""
    caches = [value for value in (given.get("cache"), given.get("past_key_values")) if value is not None]
    if len(caches) == 2 and caches[0] is not caches[1]:
        raise ConfigError("cache and past_key_values came with two values, but are one argument; give one of them")
    return caches[0] if caches else None


@dataclass
class CausalOutput(CausalLMOutputWithPast):
    """transformers' output of a causal model; its cache can be read under both names with every version."""


def _read_cache(output: CausalOutput) -> Any:
    return cache_of(output)


# The name that this version does not use: a field of the dataclass cannot be shadowed, so it is put on afterwards.
setattr(CausalOutput, "cache" if CACHE_NAME == "past_key_values" else "past_key_values", property(_read_cache))


def causal_output(loss: Any, logits: Any, cache: Any) -> CausalOutput:
    """loss: scalar or None; logits [batch, tokens, vocab]; cache: what the next call goes on with, or None."""
    return CausalOutput(loss=loss, logits=logits, **cache_argument(cache))


def gguf_architectures() -> list[str]:
    """Architectures of causal models that transformers loads from GGUF files; none where it no longer tells."""
    try:
        from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES
    except ImportError:
        return []
    return sorted(set(GGUF_SUPPORTED_ARCHITECTURES) - {"general", "tokenizer", "t5", "umt5"})


def get_attention_name(model: nn.Module) -> str:
    """The attention implementation a model's forward will use ('sdpa', 'eager', 'ltm', ...)."""
    return str(model.config._attn_implementation)  # type: ignore[union-attr]


def set_attention_name(model: nn.Module, name: str) -> None:
    """Select the attention implementation for every config that the model's attention modules hold.

    `PreTrainedModel.set_attn_implementation` does the same with checks that cost milliseconds; a decode step
    that attaches and detaches around each token cannot pay them.
    """
    seen: set[int] = set()
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is None or id(config) in seen or not hasattr(config, "_attn_implementation"):
            continue
        seen.add(id(config))
        config._attn_implementation = name


def heed_softcap(model: nn.Module) -> None:
    """Give a model whose attention caps its logits (Gemma 2) an implementation that does.

    transformers 5.4 runs it with SDPA, which leaves the cap out without a word; later ones refuse that themselves.
    """
    config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    if getattr(config, "attn_logit_softcapping", None) and get_attention_name(model) == "sdpa":
        set_attention_name(model, "eager")


def tell_gguf_version() -> None:
    """Give the gguf package the version that transformers asks of it before it reads a GGUF file.

    Under Python 3.10 transformers 5.4 does not find it in gguf's metadata, falls back on this attribute, which gguf
    lacks, and fails on "Invalid version: 'N/A'".
    """
    import gguf

    if not hasattr(gguf, "__version__"):
        vars(gguf)["__version__"] = importlib.metadata.version("gguf")


def cpu_has_fast_bf16() -> bool:
    """Whether this processor multiplies bfloat16 natively; without it bf16 is slower than float32."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    return any(bool(getattr(torch.cpu, name)()) for name in probes if hasattr(torch.cpu, name))
