"""Modules in the backbone's places: for a block, for a thread, for a row."""

from __future__ import annotations

import threading

import pytest
import torch

from ltm.methods import create_method


@pytest.fixture(params=["tiny-llama", "tiny-gpt2"])
def method(request, tiny_backbone):
    """GPT-2 has Conv1D in the place of Linear."""
    return create_method("mora", tiny_backbone(request.param), rank=2)


def ids(rows=3):
    return torch.randint(5, 90, (rows, 9), generator=torch.Generator().manual_seed(0))


def other_weights(method, seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(t.shape, generator=generator) * 0.1 for name, t in method.start.items()}


@torch.no_grad()
def test_rows_have_weights_of_their_own_and_rows_that_share_them_run_together(method):
    model, one, two = method.model, other_weights(method, 1), other_weights(method, 2)
    with method.installed([one, two, one]):
        together = model(ids()).logits
    for row, weights in enumerate((one, two, one)):
        with method.installed([weights]):
            alone = model(ids()[row : row + 1]).logits
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)
    assert float((together[0] - model(ids()).logits[0]).abs().max()) > 0.1


@torch.no_grad()
def test_inside_the_block_and_after_it_the_backbone_is_what_it_was(method):
    model, before = method.model, method.backbone.fingerprint
    modules, expected = list(model.modules()), model(ids()).logits
    with pytest.raises(KeyError), method.installed([other_weights(method, 1)]):
        names = [name for name, _ in model.named_parameters()]
        assert any(module not in modules for module in model.modules())
        raise KeyError
    assert names == [name for name, _ in model.named_parameters()]
    assert list(model.modules()) == modules and method.backbone.fingerprint == before
    assert torch.equal(model(ids()).logits, expected)


@torch.no_grad()
def test_another_thread_runs_the_plain_model_meanwhile(method):
    model, found = method.model, []
    expected = model(ids()).logits
    with method.installed([other_weights(method, 1)]):
        thread = threading.Thread(target=lambda: found.append(model(ids()).logits))
        thread.start()
        thread.join()
        inside = model(ids()).logits
    assert torch.equal(found[0], expected) and not torch.equal(inside, expected)


@torch.no_grad()
def test_blocks_inside_each_other_come_off_in_turn(method):
    model, other = method.model, create_method("mora", method.backbone, rank=3)
    expected = model(ids()).logits
    with method.installed([other_weights(method, 1)]):
        outer = model(ids()).logits
        with other.installed([other_weights(other, 2)]):
            assert not torch.equal(model(ids()).logits, outer)
        assert torch.equal(model(ids()).logits, outer)
    assert torch.equal(model(ids()).logits, expected)


@pytest.mark.parametrize("name", ["lora", "mora"])
def test_what_is_learned_is_float32_beside_a_bfloat16_backbone(tiny_backbone, name):
    if name == "lora":
        pytest.importorskip("peft", reason="method lora needs it")
    method = create_method(name, tiny_backbone("tiny-llama", "bfloat16"), rank=2)
    method.read(ids())
    assert {tensor.dtype for tensor in method.start.values()} == {torch.float32}
    assert {tensor.dtype for row in method.memory.rows for tensor in row.values()} == {torch.float32}
    with torch.no_grad():
        assert method(ids()).logits.dtype == torch.bfloat16
