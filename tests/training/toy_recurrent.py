"""A recurrent reader as small as one can be: a state a row, written after each segment, read by the next."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from fake_method import VOCAB
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from ltm.backbone import load_backbone
from ltm.memory import Memory

WIDTH = 12
BACKBONE = load_backbone("tiny-llama")
"""Not used; every method has one."""


class RowStates(Memory):
    """Row -> state [WIDTH], with the graph that computed it."""

    def __init__(self, rows: int) -> None:
        self.states = [torch.zeros(WIDTH) for _ in range(rows)]

    @property
    def num_rows(self) -> int:
        return len(self.states)

    @property
    def nbytes(self) -> int:
        return sum(state.nbytes for state in self.states)

    @property
    def is_empty(self) -> bool:
        return not any(state.any() for state in self.states)

    def reset(self, rows: Any = None) -> None:
        for row in range(len(self.states)) if rows is None else rows.tolist():
            self.states[row] = torch.zeros(WIDTH)

    def detach(self) -> None:
        self.states = [state.detach() for state in self.states]

    def save(self, path: Path) -> None:
        path.mkdir()
        save_file({"states": torch.stack(self.states).detach()}, path / "states")

    @classmethod
    def load(cls, path: Path, *, device: Any = None) -> RowStates:
        loaded = cls(0)
        loaded.states = list(load_file(path / "states")["states"])
        return loaded

    def select(self, rows: Any) -> RowStates:
        raise NotImplementedError

    def undone_on_failure(self) -> Any:
        raise NotImplementedError


class Recurrent(nn.Module):
    """logits = head(embedding + read(state)); state = tanh(keep(state) + write(mean embedding))."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.keep, self.write, self.read = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.head = nn.Linear(WIDTH, VOCAB)
        self.uses_memory, self.in_training, self.backbone = True, False, BACKBONE

    def forward(self, input_ids, attention_mask, labels, memory, remember=False):
        embedded, mask = self.embedding(input_ids), attention_mask[..., None].float()
        state = torch.stack(memory.states)
        logits = self.head(embedded + self.read(state)[:, None])
        loss = functional.cross_entropy(logits[:, :-1].reshape(-1, VOCAB), labels[:, 1:].reshape(-1))
        if remember:
            mean = (embedded * mask).sum(dim=1) / mask.sum(dim=1)
            new = torch.tanh(self.keep(state) + self.write(mean))
            memory.states = list(new)
        return SimpleNamespace(loss=loss, logits=logits)

    def new_memory(self, rows: int = 0) -> RowStates:
        return RowStates(rows)

    def load_memory(self, path: Path, *, mmap: bool) -> RowStates:
        return RowStates.load(path)

    def reset(self, rows: Any = None, *, memory: RowStates) -> None:
        memory.reset(rows)

    def trainable_parameters(self):
        return self.parameters()

    def gate_summary(self) -> dict[str, float]:
        return {}

    def save_pretrained(self, path: Any) -> None:
        save_file(self.trained(), Path(path) / "toy.safetensors")

    def trained(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.named_parameters()}
