"""Texts to unit vectors for clients: by the encoder that finds passages, else by the backbone's own states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ltm.backbone.turns import lock_of
from ltm.data.tokens import token_ids

if TYPE_CHECKING:
    from ltm.backbone import Backbone

MOST_TOKENS = 512
"""Of a text, that the backbone reads; what comes after them does not count."""


class PooledStates:
    """A backbone as an encoder: the mean of the last hidden states over a text's tokens, scaled to length 1. A model of
    language that was trained for nothing else puts texts of one kind near each other rather than of one meaning; where
    an encoder is installed it is taken.

    >>> PooledStates(load_backbone("tiny-llama")).embed(["a cat"]).shape  # doctest: +SKIP
    torch.Size([1, 64])
    """

    def __init__(self, backbone: Backbone):
        self.backbone, self.tokenizer = backbone, backbone.tokenizer
        self.name, self.identity = f"{backbone.name}, pooled", f"pooled-1/{backbone.name}/{MOST_TOKENS}"
        self.most_tokens = MOST_TOKENS
        self.width = int(backbone.model.config.get_text_config().hidden_size)

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors float32 [texts, width], on the host, one text at a time."""
        return torch.stack([self._vector(text) for text in texts]) if texts else torch.empty(0, self.width)

    def _vector(self, text: str) -> Tensor:
        model: Any = self.backbone.model
        ids = token_ids(self.tokenizer, text)[None, : self.most_tokens].to(self.backbone.device)
        with lock_of(model):
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]  # [tokens, width]
        return nn.functional.normalize(hidden.float().mean(dim=0), dim=0).cpu()


def num_read(encoder: Any, text: str) -> int:
    """How many tokens of a text an encoder reads; characters, for one that has no tokenizer."""
    tokenizer = getattr(encoder, "tokenizer", None)
    if tokenizer is None:
        return len(text)
    return min(len(tokenizer(text, verbose=False)["input_ids"]), encoder.most_tokens)
