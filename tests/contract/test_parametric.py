"""What every memory in weights must do beside what every reader must."""

from __future__ import annotations

import threading

import pytest
import torch
from contract.families import (
    ARCHITECTURES,
    CLOSE,
    DTYPES,
    another_backbone,
    answers_elsewhere,
    build,
    far_apart,
    logits,
    methods_of,
    tokens,
)

from ltm.errors import BankMismatchError, LtmError
from ltm.methods.parametric.base import Parametric


@pytest.fixture(params=ARCHITECTURES)
def backbone(request, tiny_backbone):
    return tiny_backbone(request.param, DTYPES.get(request.param, "float64"))


@pytest.fixture(params=methods_of(Parametric))
def method(request, backbone):
    return build(request.param, backbone)


def bits(backbone) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in backbone.model.state_dict().values()]


def test_it_starts_as_the_backbone_to_the_bit(method, backbone):
    ids = tokens(length=9)
    assert torch.equal(logits(method, ids), backbone.model(ids).logits)


def test_reading_lowers_the_loss_of_what_was_read_and_reset_restores_the_bits(method, backbone):
    ids, other = tokens(length=12), tokens(length=12, seed=5)
    before, weights = logits(method, other), bits(backbone)
    with torch.no_grad():
        fresh = float(method(ids, labels=ids).loss)
        method.read(ids)
        assert float(method(ids, labels=ids).loss) < fresh - 0.05
    assert far_apart(logits(method, other), before)
    method.reset()
    assert torch.equal(logits(method, other), before)
    assert all(torch.equal(*pair) for pair in zip(bits(backbone), weights, strict=True))
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in backbone.model.parameters())


def test_reset_of_one_row_leaves_the_other(method):
    ids = tokens(length=9)
    fresh = logits(method, ids)
    method.read(tokens(length=37))
    full = logits(method, ids)
    method.reset(rows=[0])
    after = logits(method, ids)
    torch.testing.assert_close(after[1], full[1], **CLOSE)
    torch.testing.assert_close(after[0], fresh[0], **CLOSE)


@torch.no_grad()
def test_merged_equals_unmerged(method, backbone):
    ids = tokens(1, length=11)  # within the window
    method.read(tokens(1, length=37))
    try:
        merged = method.merged(method.memory.rows[0])
    except LtmError as error:
        pytest.skip(str(error))
    names = dict(backbone.model.named_parameters())
    assert merged and all(tensor.shape == names[name].shape for name, tensor in merged.items())
    found = torch.func.functional_call(backbone.model, merged, (ids,)).logits
    torch.testing.assert_close(found, logits(method, ids), **CLOSE)
    assert far_apart(found, backbone.model(ids).logits)


def test_rows_differ_and_each_equals_itself_alone(method):
    ids = tokens(1, length=9).expand(3, -1)
    method.read(tokens(3, length=37))
    together = logits(method, ids)
    assert far_apart(together[0], together[1]) and far_apart(together[1], together[2])
    for row in range(3):
        torch.testing.assert_close(together[row], logits(method, ids[:1], memory_rows=[row])[0], **CLOSE)
    picked = logits(method, ids, memory_rows=[2, 0, 2])
    torch.testing.assert_close(picked, together[[2, 0, 2]], **CLOSE)


def test_reading_at_segments_ends_equals_reading_whole(method):
    ids, parts = tokens(length=40), method.new_memory(2)
    method.read(ids)
    for piece in ids.split(method.method_config.segment_size, dim=1):
        method.read(piece, memory=parts)
    for own, other in zip(method.memory.rows, parts.rows, strict=True):
        assert all(torch.equal(own[name], other[name]) for name in own)


def test_what_leaves_a_stream_s_window_is_learned_by_the_stream_alone(method, backbone):
    """The text again, after a window of others: likelier than where its first time was forgotten."""
    ids = tokens(1, length=24)
    method.read(tokens(1, length=9, seed=9))
    held, stream = method.memory.rows[0], method.new_cache()
    logits(method, ids, cache=stream, use_cache=True)
    assert method.memory.rows[0] is held and stream.carried["weights"][0] is not held


def test_its_size_does_not_grow_with_what_was_read(method):
    method.read(tokens(length=17))
    held = method.memory.nbytes
    method.read(tokens(length=80, seed=3))
    assert method.memory.nbytes == held > 0


def test_two_threads_with_two_memories_get_what_each_would_get_alone(method):
    texts, asked = [tokens(1, seed=seed) for seed in (1, 2)], tokens(1, length=9)
    expected = []
    for text in texts:
        memory = method.new_memory()
        method.read(text, memory=memory)
        expected.append(logits(method, asked, memory=memory))
    assert far_apart(*expected)
    found: dict[int, torch.Tensor] = {}

    def read_and_ask(number: int) -> None:
        memory = method.new_memory()
        for piece in texts[number].split(method.method_config.segment_size, dim=1):
            method.read(piece, memory=memory)
            found[number] = logits(method, asked, memory=memory)

    threads = [threading.Thread(target=read_and_ask, args=(number,)) for number in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for number in range(2):
        torch.testing.assert_close(found[number], expected[number], **CLOSE)


def test_saved_and_loaded_it_answers_the_same(method, tmp_path):
    method.read(tokens(length=37))
    answers_elsewhere(method, tmp_path)


@pytest.mark.slow
def test_another_process_loads_it_and_answers_the_same(method, tmp_path):
    method.read(tokens(length=37))
    answers_elsewhere(method, tmp_path, in_another_process=True)


def test_weights_of_another_backbone_or_size_are_refused(method, tiny_backbone, tmp_path):
    method.read(tokens(length=17))
    method.memory.save(tmp_path)
    elsewhere = build(method.name, another_backbone(method, tiny_backbone))
    with pytest.raises(BankMismatchError, match="not for this model"):
        elsewhere.load_memory(tmp_path)


def test_training_teaches_the_weights_that_rows_start_from(method):
    """`ltm train` and learners change them; what was read before keeps its own."""
    method.train()
    ids = tokens(length=11)
    parameters = list(method.trainable_parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = method(ids, labels=ids, remember=True).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.02
    assert method.memory.is_empty
