"""Encoders: texts to unit vectors whose inner products say how alike they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ltm.errors import LtmError, unknown_name


class Encoder(Protocol):
    """What makes the vectors of a store of notes.

    name: what it is opened by. identity: equal for two encoders only if they give the same vectors: it is noted beside
    each vector, and those of another identity are made anew. width: components of a vector.
    """

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str: ...

    @property
    def width(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors float32 [texts, width], on the host; the same for a text whatever stands beside it, up to
        rounding."""
        ...


class HashEncoder:
    """Counts of character n-grams, hashed into a few hundred components: no weights, nothing to fetch.

    A text and a rewording that share no words are strangers to it: it finds what is spelled alike, typing errors and
    inflections included. Each n-gram adds the root of its count, with a sign of its own, to one component (Weinberger
    et al., 2009, arXiv:0902.2206).

    >>> vectors = HashEncoder().embed(["the lighthouse", "a light house", "tax return"])
    >>> bool(vectors[0] @ vectors[1] > vectors[0] @ vectors[2])
    True
    """

    name = "hash"

    def __init__(self, width: int = 512, lengths: tuple[int, ...] = (3, 4, 5)):
        self.width, self.lengths = width, lengths
        self.identity = f"hash-1/{width}/{'-'.join(map(str, lengths))}"

    def embed(self, texts: Sequence[str]) -> Tensor:
        return (
            torch.from_numpy(np.stack([self._vector(text) for text in texts])) if texts else torch.empty(0, self.width)
        )

    def _vector(self, text: str) -> np.ndarray:
        """A unit vector float32 [width]; of a text without a letter the first component is 1."""
        words = " ".join(_WORD.findall(text.lower()))
        codes = np.frombuffer(f" {words} ".encode("utf-32-le"), dtype="<u4").astype(np.uint64)
        hashes, counts = np.unique(np.concatenate([_ngrams(codes, n) for n in self.lengths]), return_counts=True)
        vector = np.zeros(self.width)
        signs = np.where(hashes & np.uint64(1), 1.0, -1.0)
        np.add.at(vector, ((hashes >> np.uint64(33)) % np.uint64(self.width)).astype(np.int64), signs * np.sqrt(counts))
        norm = float(np.linalg.norm(vector))
        if norm == 0:
            vector[0] = norm = 1.0
        return (vector / norm).astype(np.float32)


_WORD = re.compile(r"\w+")
_BASE, _MIX = np.uint64(0x100000001B3), np.uint64(0x9E3779B97F4A7C15)


def _ngrams(codes: np.ndarray, length: int) -> np.ndarray:
    """A 64-bit hash of each run of so many characters, uint64 [characters - length + 1]; arithmetic wraps round."""
    count = max(len(codes) - length + 1, 0)
    hashes = np.full(count, length, dtype=np.uint64)
    for offset in range(length):
        hashes = hashes * _BASE + codes[offset : offset + count]
    hashes = (hashes ^ (hashes >> np.uint64(29))) * _MIX
    return hashes ^ (hashes >> np.uint64(32))


def _minilm() -> Encoder:
    from ltm.notes.minilm import MiniLM

    return MiniLM.load()


ENCODERS: dict[str, Callable[[], Encoder]] = {"minilm": _minilm, "hash": HashEncoder}
"""By name; nothing is loaded until asked for."""
DEFAULT_ENCODER = "minilm"


def installed_encoder() -> str | None:
    """The name of the encoder that finds by meaning and whose files are here already; None: it is not."""
    from ltm.notes.minilm import is_installed

    return DEFAULT_ENCODER if is_installed() else None


@cache
def load_encoder(name: str = DEFAULT_ENCODER) -> Encoder:
    """An encoder by name, the same one at every call. LtmError for an unknown name, and where its weights cannot be
    fetched: no other one is taken in its place.

    >>> load_encoder("hash").embed(["a text"]).shape
    torch.Size([1, 512])
    """
    if name not in ENCODERS:
        raise unknown_name("encoder", name, ENCODERS)
    try:
        return ENCODERS[name]()
    except LtmError as error:
        raise LtmError(f"encoder {name} is not to be had: {error}; encoder=hash needs no weights") from error
