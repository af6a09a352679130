"""What each token used of memory, by attention and by copying."""

from __future__ import annotations

import pytest
import torch

from ltm.methods.trace import Trace


def test_attention_has_what_copying_leaves():
    bank, trace, rows = object(), Trace(), torch.tensor([0])
    slots = torch.tensor([[[[3, 5], [3, 5]]]])  # [batch, heads, tokens, chunks]
    trace.note(bank, rows, slots, torch.tensor([[[[0.6, 0.2], [0.6, 0.2]]]]))
    copied, left = torch.tensor([[[[0.7, 0.1]]]]), torch.tensor([[[[0.2]]]])  # of the last token alone
    trace.join(bank, rows, torch.tensor([[[[5, 8]]]]), copied, left)
    first, last = ({chunk.slot: chunk.weight for chunk in used} for used in trace.tokens(0, bank))
    assert first == pytest.approx({3: 0.6, 5: 0.2})
    assert last == pytest.approx({3: 0.12, 5: 0.74, 8: 0.1})
    assert sum(last.values()) <= 1


def test_what_was_copied_from_a_bank_that_attention_left_alone_is_noted():
    bank, trace, rows = object(), Trace(), torch.tensor([0])
    trace.join(bank, rows, torch.tensor([[[[5]]]]), torch.tensor([[[[0.7]]]]), torch.tensor([[[[0.3]]]]))
    assert [(chunk.slot, round(chunk.weight, 3)) for chunk in trace.tokens(0, bank)[0]] == [(5, 0.7)]
