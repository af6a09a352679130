"""Training: documents to segment-ordered batches, and the loop that trains any method on them."""

from __future__ import annotations

from .config import TrainConfig
from .corpus import Corpus
from .exercises import exercises
from .log import read_log
from .loop import Trainer
from .plot import plot_loss
from .questions import Answered, question_documents
from .state import TrainResult
from .stream import Batch, SegmentStream
from .validation import Validation

__all__ = [
    "Answered",
    "Batch",
    "Corpus",
    "SegmentStream",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "Validation",
    "exercises",
    "plot_loss",
    "question_documents",
    "read_log",
]
