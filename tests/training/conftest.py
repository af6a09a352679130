"""Shared parts of the training tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from fake_method import ByteTokenizer, FakeMethod  # noqa: E402

from ltm.data.documents import Document  # noqa: E402
from ltm.training import Corpus, SegmentStream, TrainConfig, Trainer, Validation  # noqa: E402


def make_documents(lengths: list[int], kind: str = "doc") -> list[Document]:
    """Documents whose characters tell where in which document they stand."""
    letters = [chr(33 + n) for n in range(60)]
    return [
        Document(f"{kind}{n}", "".join(letters[(n * 7 + i * (n + 1)) % 60] for i in range(length)), f"{kind}:{n}")
        for n, length in enumerate(lengths)
    ]


class Bench:
    """Builds trainers that differ in nothing but what a test names."""

    lengths = [41, 9, 23, 60, 17]

    def __init__(self, folder: Path):
        self.folder = folder

    def config(self, **options) -> TrainConfig:
        defaults = {
            "batch_rows": 2,
            "segment_size": 8,
            "max_steps": 6,
            "learning_rate": 1e-2,
            "precision": "fp32",
        }
        return TrainConfig(**{**defaults, **options})

    def trainer(
        self, out="out", method=None, validation=None, weights=None, learner=None, stages=1, **options
    ) -> Trainer:
        config = self.config(**options)
        streams = [
            SegmentStream.from_config(corpus, ByteTokenizer(), config, weights)
            for corpus in (self.corpus(), self.other_corpus())[:stages]
        ]
        shown = {"learner": learner, "plot": False, "quiet": True}
        return Trainer(method or FakeMethod(), streams, config, self.folder / out, validation, **shown)

    def corpus(self) -> Corpus:
        return Corpus([make_documents(self.lengths)])

    def other_corpus(self) -> Corpus:
        return Corpus([make_documents([33, 50, 21], "other")])

    def validation(self) -> Validation:
        corpus = Corpus([make_documents([40, 20], "held")])
        return Validation(corpus, ByteTokenizer(), segment_size=8, segments_per_document=3)


@pytest.fixture
def bench(tmp_path) -> Bench:
    torch.set_num_threads(1)
    return Bench(tmp_path)
