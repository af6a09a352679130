"""Whether a model still profits from a text that its memory should have forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ltm.bank.disk.texts import kept_texts
from ltm.data.tokens import token_ids
from ltm.errors import LtmError
from ltm.streams.scoring import score_stream

if TYPE_CHECKING:
    from ltm.text.session import Session

TOLERANCE = 0.02
"""Nats a token: what rounding may do. A text that is remembered word for word gains whole nats."""


@dataclass(frozen=True)
class Likelihood:
    """Nats of a text: with the memory, without any, and with one that was built from the memory's present texts and so
    never held it."""

    tokens: int
    with_memory: float
    without: float
    never_held: float

    @property
    def gain_per_token(self) -> float:
        """Nats a token by which the memory predicts the text better than one that never held it; 0 or less: no
        trace."""
        return (self.never_held - self.with_memory) / self.tokens

    @property
    def is_forgotten(self) -> bool:
        """Whether no trace is left, up to rounding."""
        return self.gain_per_token <= TOLERANCE


@torch.no_grad()
def likelihood_of(session: Session, text: str) -> Likelihood:
    """How likely a text is to a session's model; reads all remembered texts again, into a memory beside.

    Raises LtmError for a text of less than two tokens, and where a document was added without its text.
    """
    method, ids = session.method, token_ids(session.tokenizer, text)
    if len(ids) < 2:
        raise LtmError(f"the text has {len(ids)} tokens; give one of two or more")
    texts = list(kept_texts(session.bank))
    aside = type(session)(method, session.tokenizer, memory=method.memory_in(method.new_bank(1)))
    without = _nats(aside, ids)
    for kept in texts:
        aside.read(kept.text, kept.name, ranges=kept.ranges)
    return Likelihood(len(ids), _nats(session, ids), without, _nats(aside, ids))


def _nats(session: Session, ids: Tensor) -> float:
    return float(score_stream(session.method, ids, memory=session.memory).double().sum())
