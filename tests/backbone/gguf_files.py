"""Small GGUF files and wheels for tests, made from a tiny Llama as llama.cpp's converter would."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import gguf
import numpy as np
from transformers import LlamaForCausalLM

from ltm.backbone.tiny import build_tiny

_LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_OUTER_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}


def tiny_llama() -> LlamaForCausalLM:
    """Two layers, so that a conversion takes a moment."""
    return build_tiny("tiny-llama", num_hidden_layers=2)[0]


def write_gguf(
    path: Path, model: LlamaForCausalLM, *, quantize: bool = False, without: str = "", architecture: str = "llama"
) -> Path:
    """Write a Llama as a GGUF file: float32, or its matrices in 8 bits. without: leave this tensor out. architecture:
    what the file says it holds."""
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer)
    for name, parameter in model.named_parameters():
        if name != without:
            _add_tensor(writer, name, parameter.detach().numpy(), config, quantize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    """Bytes, two merges (transformers reads no shorter list) and the special tokens, of the kind that splits digits."""
    tokenizer = build_tiny("tiny-llama")[1]
    tokens = tokenizer.convert_ids_to_tokens(list(range(256)))
    tokens[1:3] = ["ĠĠ", "!!"]  # in place of two bytes that no test's text contains
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*tokens, "<pad>", "<bos>", "<eos>"])
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * 3)
    writer.add_token_merges(["Ġ Ġ", "! !"])
    writer.add_unk_token_id(256)  # some versions of transformers cannot do without
    writer.add_pad_token_id(256)
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    writer.add_add_bos_token(False)


def _add_tensor(writer: gguf.GGUFWriter, name: str, value: np.ndarray, config, quantize: bool) -> None:
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        _, _, layer, rest = stem.split(".", 3)
        target = f"blk.{layer}.{_LAYER_NAMES[rest]}"
    else:
        target = _OUTER_NAMES[stem]
    if stem.endswith(("q_proj", "k_proj")):
        heads = config.num_attention_heads if stem.endswith("q_proj") else config.num_key_value_heads
        value = _interleave(value, heads)
    kind = gguf.GGMLQuantizationType.Q8_0 if quantize and value.ndim == 2 else gguf.GGMLQuantizationType.F32
    if kind != gguf.GGMLQuantizationType.F32:
        value = gguf.quantize(np.ascontiguousarray(value), kind)
    writer.add_tensor(f"{target}.weight", np.ascontiguousarray(value), raw_dtype=kind)


def _interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates neighbouring pairs where transformers rotates halves: reorder each head's rows so."""
    rows = weight.shape[0] // heads
    return weight.reshape(heads, 2, rows // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write_wheel(directory: Path, name: str, member: str, content: bytes) -> Path:
    """A wheel of version 0.1 that pip accepts, holding one file."""
    info = f"{name}-0.1.dist-info"
    files = {
        member: content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in files).encode()
    wheel = directory / f"{name}-0.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, data in files.items():
            archive.writestr(file, data)
    return wheel


def sha256(content: bytes) -> str:
    """Hexadecimal."""
    return hashlib.sha256(content).hexdigest()
