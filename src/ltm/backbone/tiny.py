"""Small random models of every architecture family, built from a config: for tests and dry runs, offline."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

VOCAB_SIZE = 259  # 256 bytes, then padding, beginning and end of text
PAD, BOS, EOS = 256, 257, 258
NUM_LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, MLP = 6, 64, 4, 2, 16, 96
SLIDING_WINDOW, MAX_POSITIONS = 16, 512

# A random matrix of this scale keeps activations of size one through a layer, so attention is not uniform and
# a mistake in it shows in the logits; the usual 0.02 would make every test of a difference weak.
INIT_STD = HIDDEN**-0.5

_COMMON = {"vocab_size": VOCAB_SIZE, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_LLAMA_LIKE = {
    **_COMMON,
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "max_position_embeddings": MAX_POSITIONS,
    "initializer_range": INIT_STD,
}
_GEMMA_LIKE = {**_LLAMA_LIKE, "sliding_window": SLIDING_WINDOW, "query_pre_attn_scalar": 24}

_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny-llama": ("llama", {**_LLAMA_LIKE, "tie_word_embeddings": True}),
    "tiny-mistral": ("mistral", {**_LLAMA_LIKE, "sliding_window": SLIDING_WINDOW}),
    "tiny-qwen2": ("qwen2", {k: v for k, v in _LLAMA_LIKE.items() if k != "head_dim"}),
    "tiny-qwen3": ("qwen3", _LLAMA_LIKE),
    "tiny-gemma2": ("gemma2", {**_GEMMA_LIKE, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}),
    "tiny-gemma3": (
        "gemma3_text",
        {**_GEMMA_LIKE, "layer_types": (["sliding_attention"] * 2 + ["full_attention"]) * (NUM_LAYERS // 3)},
    ),
    "tiny-phi3": (
        "phi3",
        {
            **{k: v for k, v in _LLAMA_LIKE.items() if k != "head_dim"},
            "original_max_position_embeddings": MAX_POSITIONS,
            "resid_pdrop": 0.0,
        },
    ),
    "tiny-gpt-neox": (
        "gpt_neox",
        {
            **{k: v for k, v in _LLAMA_LIKE.items() if k not in ("head_dim", "num_key_value_heads")},
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
        },
    ),
    "tiny-gpt2": (
        "gpt2",
        {
            **_COMMON,
            "n_embd": HIDDEN,
            "n_layer": NUM_LAYERS,
            "n_head": HEADS,
            "n_positions": MAX_POSITIONS,
            "initializer_range": INIT_STD,
        },
    ),
    "tiny-opt": (
        "opt",
        {
            **_COMMON,
            "hidden_size": HIDDEN,
            "word_embed_proj_dim": HIDDEN,
            "ffn_dim": MLP,
            "num_hidden_layers": NUM_LAYERS,
            "num_attention_heads": HEADS,
            "max_position_embeddings": MAX_POSITIONS,
            "init_std": INIT_STD,
        },
    ),
}

TINY_ARCHITECTURES: tuple[str, ...] = tuple(_CONFIGS)
"""Names that `load_backbone` builds: 6 layers, hidden size 64, 4 heads of 16 (grouped: 2 key-value heads)."""


def build_tiny(name: str, *, seed: int = 0, **overrides: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Build a seeded random float32 model and its byte-level tokenizer.

    name: one of `TINY_ARCHITECTURES`. seed: two seeds give two models. overrides: fields of the config.
    The caller's random state is left as it was.

    >>> model, tokenizer = build_tiny("tiny-llama")
    >>> model(**tokenizer("hello", return_tensors="pt")).logits.shape
    torch.Size([1, 5, 259])
    """
    model_type, fields = _CONFIGS[name]
    config = AutoConfig.for_model(model_type, **{**fields, **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        _disturb_vectors(model)
    model.name_or_path = model.config.name_or_path = name
    return model.eval(), byte_tokenizer()


@torch.no_grad()
def _disturb_vectors(model: PreTrainedModel) -> None:
    """Move biases off 0 and norm weights off 1, so that code which forgets one of them gives other logits."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.1 * torch.randn_like(parameter))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token a byte (its id is the byte's value) and no merges: any text round-trips."""
    vocab = {character: byte for byte, character in _byte_characters().items()}
    vocab |= {"<pad>": PAD, "<bos>": BOS, "<eos>": EOS}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _byte_characters() -> dict[int, str]:
    """The printable stand-in of each byte in GPT-2's byte-level encoding (256 and up for those without)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    moved = [byte for byte in range(256) if byte not in set(printable)]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(moved)}
