"""The output head gets its input in one piece, and gives what it gave before."""

from __future__ import annotations

import copy

import pytest
import torch

from ltm.backbone import load_backbone


@pytest.mark.parametrize("rows", [1, 3])
def test_the_last_tokens_reach_the_head_in_one_piece(rows):
    plain = load_backbone("tiny-llama").model
    plain = copy.deepcopy(plain)
    plain.get_output_embeddings()._forward_pre_hooks.clear()
    backbone = load_backbone(copy.deepcopy(plain))
    load_backbone(backbone.model)  # once more: still one hook
    strides = []
    head = backbone.model.get_output_embeddings()
    assert len(head._forward_pre_hooks) == 1
    head.register_forward_hook(lambda module, inputs, output: strides.append((inputs[0].shape, inputs[0].stride())))
    ids = torch.arange(5, 5 + 8 * rows).view(rows, 8)
    for keep in (1, 3, 0):
        torch.testing.assert_close(
            backbone.model(ids, logits_to_keep=keep).logits, plain(ids, logits_to_keep=keep).logits
        )
    width = backbone.view.hidden_size
    assert strides == [((rows, kept, width), (kept * width, width, 1)) for kept in (1, 3, 8)]


def test_gradients_pass_through():
    backbone = load_backbone("tiny-llama")
    hidden = torch.randn(1, 4, backbone.view.hidden_size, requires_grad=True)
    backbone.view.head(hidden[:, -1:]).sum().backward()
    assert bool((hidden.grad[:, -1] != 0).any()) and not bool(hidden.grad[:, :-1].any())
