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

WIDTH = 12


class RowStates:
    """Row -> state [WIDTH], with the graph that computed it."""

    def __init__(self) -> None:
        self.states: dict[int, Tensor] = {}

    def of(self, rows: range) -> Tensor:
        return torch.stack([self.states.get(row, torch.zeros(WIDTH)) for row in rows])

    def detach(self) -> None:
        self.states = {row: state.detach() for row, state in self.states.items()}

    def save(self, path: Path) -> None:
        path.mkdir()
        save_file({str(row): state.detach().contiguous() for row, state in self.states.items()}, path / "states")

    @classmethod
    def load(cls, path: Path, **_: Any) -> RowStates:
        loaded = cls()
        loaded.states = {int(row): state for row, state in load_file(path / "states").items()}
        return loaded


class Recurrent(nn.Module):
    """logits = head(embedding + read(state)); state = tanh(keep(state) + write(mean embedding))."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.keep, self.write, self.read = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.head = nn.Linear(WIDTH, VOCAB)
        self.bank: RowStates | None = RowStates()

    def forward(self, input_ids, attention_mask, labels, remember=False):
        self.bank = self.bank or RowStates()
        rows, embedded, mask = range(len(input_ids)), self.embedding(input_ids), attention_mask[..., None].float()
        state = self.bank.of(rows)
        logits = self.head(embedded + self.read(state)[:, None])
        loss = functional.cross_entropy(logits[:, :-1].reshape(-1, VOCAB), labels[:, 1:].reshape(-1))
        if remember:
            mean = (embedded * mask).sum(dim=1) / mask.sum(dim=1)
            new = torch.tanh(self.keep(state) + self.write(mean))
            self.bank.states = dict(zip(rows, new, strict=True))
        return SimpleNamespace(loss=loss, logits=logits)

    def reset(self, rows: Any = None) -> None:
        kept = {} if rows is None or self.bank is None else self.bank.states
        self.bank = RowStates()
        self.bank.states = {row: state for row, state in kept.items() if row not in rows}

    def trainable_parameters(self):
        return self.parameters()

    def gate_summary(self) -> dict[str, float]:
        return {}

    def save_pretrained(self, path: Any) -> None:
        save_file(self.trained(), Path(path) / "toy.safetensors")

    def trained(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.named_parameters()}
