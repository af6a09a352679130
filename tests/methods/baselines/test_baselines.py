"""What the baselines keep of what they read."""

from __future__ import annotations

import pytest
import torch

from ltm.methods import create_method
from ltm.streams import Past


@pytest.mark.parametrize("name", ["window", "sinks"])
@pytest.mark.parametrize("length", [1, 12, 13, 31, 60])
def test_reading_passes_over_what_leaves_the_window(tiny_backbone, name, length, monkeypatch):
    """The stream after `read` is the stream after scoring token by token, at a fraction of the work."""
    backbone = tiny_backbone("tiny-llama", "float64")
    method, slow = create_method(name, backbone, local_window=12), create_method(name, backbone, local_window=12)
    ids = torch.randint(5, 90, (2, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, : length // 3] = 0  # rows move at different times
    for token in range(length):
        column = slice(token, token + 1)
        slow.score_and_read(Past(ids[:, column], mask[:, column].bool(), torch.arange(2)), slow.memory)
    encoded, encode = [], method.encode
    monkeypatch.setattr(method, "encode", lambda window: encoded.append(window.ids.shape[1]) or encode(window))
    method.read(ids, mask)
    assert sum(encoded) <= 24
    question = torch.randint(5, 90, (2, 5), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(method(question).logits, slow(question).logits, atol=1e-6, rtol=1e-5)
