"""What a backbone is, in a few hashes: a memory made with one model must not be read with another."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ltm.backbone.view import BackboneView
from ltm.errors import LtmError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAMPLES_PER_TENSOR = 4096


@dataclass(frozen=True)
class Fingerprint:
    """The identity of a backbone, compared field by field when a memory is opened.

    weights, tokenizer: hexadecimal sha256 (tokenizer None: there is none). rope: JSON of the rotary settings,
    "null" without. dtype: what the keys and values were computed in, such as "bfloat16".

    >>> Fingerprint.from_dict(fingerprint.to_dict()).differences(fingerprint)
    []
    """

    architecture: str
    weights: str
    tokenizer: str | None
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    dtype: str
    rope: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Fingerprint:
        """Read what `to_dict` gave, without keys of a later version. Raises LtmError for a missing one."""
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in values]
        if missing:
            raise LtmError(f"the fingerprint lacks {', '.join(missing)}; it was not written by ltm, or was edited.")
        return cls(**{name: values[name] for name in names})

    def differences(self, other: Fingerprint) -> list[str]:
        """One line for each field in which a bank's fingerprint (self) and a backbone's (other) differ."""
        mine, theirs = self.to_dict(), other.to_dict()
        return [
            f"{name}: bank {_short(mine[name])}, backbone {_short(theirs[name])}"
            for name in mine
            if mine[name] != theirs[name]
        ]


def fingerprint_of(view: BackboneView, tokenizer: PreTrainedTokenizerBase | None) -> Fingerprint:
    """Take the fingerprint of a loaded model: a fraction of a second for 135M parameters, a few for 7B."""
    return Fingerprint(
        architecture=type(view.model).__name__,
        weights=hash_weights(view.model),
        tokenizer=None if tokenizer is None else hash_tokenizer(tokenizer),
        num_layers=view.num_layers,
        num_heads=view.num_heads,
        num_kv_heads=view.num_kv_heads,
        head_dim=view.head_dim,
        hidden_size=view.hidden_size,
        vocab_size=view.vocab_size,
        dtype=dtype_name(view.model.dtype),
        rope=json.dumps(getattr(view.config, "rope_parameters", None), sort_keys=True, default=str),
    )


@torch.no_grad()
def hash_weights(model: PreTrainedModel) -> str:
    """sha256 over every parameter's name, shape and a sample of its elements rounded to bfloat16.

    At most 4,096 elements of each tensor are looked at: a change to a few single elements may go unseen, a
    fine-tuned, merged or re-initialised tensor does not. A float32 model and its bfloat16 copy agree.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        sample = _sample(parameter).to(torch.bfloat16).cpu()
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _sample(parameter: Tensor) -> Tensor:
    """SAMPLES_PER_TENSOR elements or fewer, at an odd stride: an even one could stay in one column."""
    if parameter.is_meta:
        raise LtmError("the model's weights are not in memory (offloaded); load it whole to use it as a backbone.")
    flat = parameter.detach().reshape(-1)
    stride = -(-flat.numel() // SAMPLES_PER_TENSOR) | 1
    return flat[:: max(stride, 1)].contiguous()


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 of the tokenizer's own serialisation, or of its vocabulary where it has none.

    Padding and truncation are left out: a call with `padding=True` alters them in place.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content: Any = sorted(tokenizer.get_vocab().items())
    else:
        content = json.loads(backend.to_str())
        content.update(padding=None, truncation=None)
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def dtype_name(dtype: torch.dtype) -> str:
    """'float32' for torch.float32."""
    return str(dtype).removeprefix("torch.")


def _short(value: Any) -> str:
    text = str(value)
    is_hash = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
    return text[:12] if is_hash else text
