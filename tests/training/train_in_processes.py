"""Run by torchrun in test_processes.py: trains whole and in two parts, and writes what came of it."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from conftest import Bench  # noqa: E402
from fake_method import FakeMethod  # noqa: E402
from safetensors.torch import save_file  # noqa: E402


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    bench = Bench(folder)
    options = {"batch_rows": 1, "schedule": "constant"}
    # other weights and another clock in each process: the trainer must bring them together
    whole = FakeMethod(dropout=0.0)
    trainer = bench.trainer("whole", whole, bench.validation(), eval_every=3, **options)
    rank = trainer.accelerator.process_index
    if rank:
        torch.nn.init.normal_(whole.local.weight)
    trainer.train()
    bench.trainer("parts", FakeMethod(dropout=0.0), max_steps=3, **options).train()
    resumed = FakeMethod(dropout=0.0, seed=9 + rank)
    bench.trainer("parts", resumed, **options).train(resume=True)
    states = {f"{part}.{n}": t for part, m in (("whole", whole), ("resumed", resumed)) for n, t in m.trained().items()}
    save_file(states, folder / f"process-{rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
