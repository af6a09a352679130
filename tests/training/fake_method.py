"""A small method with a memory, written against the training interface only: what the loop is tested with.

Each row's memory is the running mean of the hidden states it has read; trained parts turn it into logits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from ltm.backbone import Backbone
from ltm.memory import Memory

VOCAB, HIDDEN = 64, 16


class ByteTokenizer:
    """Each character is a token; counts how often it is called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        assert options["add_special_tokens"] is False
        self.calls.append(text)
        return {"input_ids": [ord(letter) % VOCAB for letter in text]}


class Means(Memory):
    """Row -> running mean of what it read, and how many tokens that was."""

    def __init__(self, rows: int = 0) -> None:
        self.rows, self.means, self.counts = rows, dict[int, Tensor](), dict[int, int]()

    @property
    def num_rows(self) -> int:
        return self.rows

    @property
    def nbytes(self) -> int:
        return sum(mean.nbytes for mean in self.means.values())

    @property
    def is_empty(self) -> bool:
        return not self.means

    def add(self, row: int, states: Tensor) -> None:
        count = self.counts.get(row, 0)
        total = self.means.get(row, torch.zeros_like(states[0])) * count + states.sum(dim=0)
        self.counts[row] = count + len(states)
        self.means[row] = total / self.counts[row]

    def reset(self, rows: Any = None) -> None:
        for row in [*self.means] if rows is None else [int(row) for row in rows]:
            self.means.pop(row, None)
            self.counts.pop(row, None)

    def save(self, path: Path) -> None:
        path.mkdir()
        save_file({str(row): mean.contiguous() for row, mean in self.means.items()}, path / "means.safetensors")
        (path / "counts.json").write_text(json.dumps([self.rows, self.counts]))

    @classmethod
    def load(cls, path: Path, *, device: Any = None) -> Means:
        rows, counts = json.loads((path / "counts.json").read_text())
        memory = cls(rows)
        memory.means = {int(row): mean for row, mean in load_file(path / "means.safetensors").items()}
        memory.counts = {int(row): count for row, count in counts.items()}
        return memory

    def select(self, rows: Any) -> Means:
        raise NotImplementedError

    def undone_on_failure(self) -> Any:
        raise NotImplementedError


class FakeMethod(nn.Module):
    """A frozen tiny Llama; trained: a projection of its states, one of the memory, a norm and a gate."""

    def __init__(self, dropout: float = 0.1, seed: int = 0):
        super().__init__()
        torch.manual_seed(0)  # one backbone, whatever the seed of the trained parts
        config = LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            tie_word_embeddings=True,
            initializer_range=0.3,
        )
        self.model = LlamaForCausalLM(config)
        self.backbone = Backbone("fake", self.model)
        torch.manual_seed(seed)
        self.local = nn.Linear(HIDDEN, HIDDEN)
        self.remembered = nn.Linear(HIDDEN, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN)
        self.gate = nn.Parameter(torch.zeros(1, 2, 1, 1))
        self.dropout = nn.Dropout(dropout)
        self.uses_memory, self.in_training = True, False
        self.calls: list[dict[str, Any]] = []
        self.resets: list[list[int] | None] = []
        self.checkpointed = False

    def forward(self, input_ids, attention_mask=None, labels=None, memory=None, remember=False):
        self.calls.append({"rows": len(input_ids), "training": self.training, "remember": remember})
        states = self.model.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        rows = range(len(input_ids))
        held = {} if memory is None else memory.means
        past = torch.stack([held.get(row, torch.zeros(HIDDEN)) for row in rows])  # [batch, hidden_size]
        gate = torch.sigmoid(self.gate.float()).mean()
        mixed = self.local(states) + gate * self.remembered(past)[:, None]
        logits = self.model.lm_head(self.dropout(self.norm(states + mixed)).to(states.dtype))
        targets = labels[:, 1:].reshape(-1)
        loss = functional.cross_entropy(logits[:, :-1].reshape(-1, VOCAB).float(), targets)
        if remember and memory is not None:
            for row, state, mask in zip(rows, states.detach().float(), attention_mask.bool(), strict=True):
                memory.add(row, state[mask])
        return SimpleNamespace(loss=loss, logits=logits)

    def new_memory(self, rows: int = 0) -> Means:
        return Means(rows)

    def load_memory(self, path: Path, *, mmap: bool) -> Means:
        return Means.load(path)

    def reset(self, rows: Any = None, *, memory: Means) -> None:
        self.resets.append(None if rows is None else [int(row) for row in rows])
        memory.reset(rows)

    def gate_summary(self) -> dict[str, float]:
        return {"gate": float(torch.sigmoid(self.gate.detach()).mean())}

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def activation_checkpointing_enable(self) -> None:
        self.checkpointed = True

    def train(self, mode: bool = True) -> FakeMethod:
        super().train(mode)
        self.model.eval()
        return self

    def save_pretrained(self, path: Any) -> None:
        save_file(self.trained(), Path(path) / "fake.safetensors")

    def trained(self) -> dict[str, Tensor]:
        return {n: p.detach().clone() for n, p in self.named_parameters() if p.requires_grad}
