"""What a backbone is, in a few hashes: a memory made with one model must not be read with another.

A model can change after it was loaded: weights are trained or merged, adapters put on, settings replaced. So the
fingerprint is asked for whenever a memory is written or attached, and `Watched` tells in milliseconds whether it has to
be taken anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ltm.backbone.settings import setting_differences, settings_of
from ltm.backbone.view import BackboneView
from ltm.backbone.watched import Named, Watched, digest_in_threads, sample_of
from ltm.decode_json import typed
from ltm.errors import LtmError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAMPLES_PER_TENSOR = 4096


@dataclass(frozen=True)
class Fingerprint:
    """The identity of a backbone, compared field by field when a memory is opened.

    weights, tokenizer: hexadecimal sha256 (tokenizer None: there is none). rope: JSON of the rotary settings,
    "null" without. dtype: what the keys and values were computed in, such as "bfloat16". settings: JSON of
    `settings_of`: norms, activation, sliding windows, quantisation, adapters, ... bits: the dtype, and sha256 of every
    bit of the weights, "bfloat16:c0ffee..."; `weights` looks at a sample in bfloat16, which copies of other dtypes
    share, and so at no single element. Both are None in what older versions wrote, which did not know them: then they
    are not compared.

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
    settings: str | None = None
    bits: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Fingerprint:
        """Read what `to_dict` gave, without keys of a later version. Raises LtmError for a missing or odd one."""
        missing = [field.name for field in fields(cls) if field.default is MISSING and field.name not in values]
        if missing:
            raise LtmError(f"the fingerprint lacks {', '.join(missing)}; it was not written by ltm, or was edited.")
        try:
            hints = {field.name: _KINDS.get(str(field.type), str) for field in fields(cls) if field.name in values}
            made = cls(**{name: typed(kind, values[name], f"its {name}") for name, kind in hints.items()})
            json.loads(made.rope), made._settings()
        except (ValueError, RecursionError) as error:
            raise LtmError(f"the fingerprint is damaged: {error}; it was not written by ltm, or was edited.") from error
        return made

    def differences(self, other: Fingerprint) -> list[str]:
        """One line for each field in which a bank's fingerprint (self) and a backbone's (other) differ; what is no
        field of both's, or of another architecture's config, is not compared."""
        mine, theirs = self.to_dict(), other.to_dict()
        lines = [
            f"{name}: bank {_short(mine[name])}, backbone {_short(theirs[name])}"
            for name in mine
            if name not in ("settings", "bits") and mine[name] != theirs[name]
        ]
        if self.weights == other.weights and self._other_bits(other):
            lines.append("weights: a few single ones are others in the backbone than in the bank's")
        if self.settings is None or other.settings is None or self.architecture != other.architecture:
            return lines
        return lines + setting_differences(self._settings(), other._settings())

    def _other_bits(self, other: Fingerprint) -> bool:
        """Whether both know every bit of weights of one dtype, and these differ."""
        mine, theirs = ((known.bits or "").partition(":") for known in (self, other))
        return bool(mine[2] and theirs[2]) and mine[0] == theirs[0] and mine[2] != theirs[2]

    def _settings(self) -> dict[str, Any]:
        return {} if self.settings is None else typed(dict[str, Any], json.loads(self.settings), "its settings")


_KINDS: dict[str, Any] = {"int": int, "str | None": str | None}


class Identity:
    """The fingerprint of a loaded model as it is now, taken anew where anything has changed.

    A look costs 5 ms for 135M parameters in 272 tensors; a fingerprint a fraction of a second, a few seconds for 7B.
    """

    def __init__(self) -> None:
        self._weights, self._tokenizer = Watched[Fingerprint](), Watched[str]()

    def of(self, view: BackboneView, tokenizer: PreTrainedTokenizerBase | None) -> Fingerprint:
        """The fingerprint of a model and its tokenizer, which is known by its size: hashing it takes 0.2 s."""
        tensors, settings = list(tensors_of(view.model)), json.dumps(settings_of(view), sort_keys=True)
        who = (id(tokenizer), tokenizer and len(tokenizer))

        def take() -> Fingerprint:
            known = None if tokenizer is None else self._tokenizer.of([], lambda: hash_tokenizer(tokenizer), who)
            return fingerprint_of(view, tensors, settings, known)

        return self._weights.of(tensors, take, (settings, view.model.dtype, who))


def fingerprint_of(view: BackboneView, tensors: Sequence[Named], settings: str, tokenizer: str | None) -> Fingerprint:
    """The fingerprint of a loaded model of these tensors and settings (JSON); tokenizer: its hash."""
    dtype = dtype_name(view.model.dtype)
    return Fingerprint(
        architecture=type(view.model).__name__,
        weights=hash_weights(tensors),
        tokenizer=tokenizer,
        num_layers=view.num_layers,
        num_heads=view.num_heads,
        num_kv_heads=view.num_kv_heads,
        head_dim=view.head_dim,
        hidden_size=view.hidden_size,
        vocab_size=view.vocab_size,
        dtype=dtype,
        rope=json.dumps(getattr(view.config, "rope_parameters", None), sort_keys=True, default=str),
        settings=settings,
        bits=f"{dtype}:{digest_in_threads(tensors)}",
    )


@torch.no_grad()
def hash_weights(tensors: Sequence[Named]) -> str:
    """sha256 over every tensor's name, shape and a sample of its elements rounded to bfloat16.

    At most 4,096 elements of each tensor are looked at: a change to a few single elements may go unseen, a
    fine-tuned, merged or re-initialised tensor does not. A float32 model and its bfloat16 copy agree.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda named: (not isinstance(named[1], nn.Parameter), named[0])):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        sample = sample_of(tensor, SAMPLES_PER_TENSOR).to(torch.bfloat16).contiguous().cpu()
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def tensors_of(model: PreTrainedModel) -> Iterator[Named]:
    """Every parameter by name, once, and the buffers that are saved with them, such as the codes of quantised weights;
    in one walk, which takes half of the time of a look."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        passing = module._non_persistent_buffers_set
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and name not in passing and id(tensor) not in seen:
                seen.add(id(tensor))
                yield f"{path}.{name}" if path else name, tensor


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
    return text[:12] if is_hash else text if len(text) <= 200 else f"{text[:197]}..."
