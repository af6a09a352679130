"""Every name of transformers whose place or form has changed between versions, imported in one spot."""

from __future__ import annotations

import torch
import transformers
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.masking_utils import sdpa_mask
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

__all__ = [
    "ALL_ATTENTION_FUNCTIONS",
    "AttentionInterface",
    "AttentionMaskInterface",
    "Cache",
    "CausalLMOutputWithPast",
    "DynamicCache",
    "DynamicLayer",
    "GenerationMixin",
    "PreTrainedModel",
    "cpu_has_fast_bf16",
    "get_attention_name",
    "sdpa_mask",
    "set_attention_name",
    "transformers_version",
]

transformers_version: str = transformers.__version__


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


def cpu_has_fast_bf16() -> bool:
    """Whether this processor multiplies bfloat16 natively; without it bf16 is slower than float32."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    return any(bool(getattr(torch.cpu, name)()) for name in probes if hasattr(torch.cpu, name))
