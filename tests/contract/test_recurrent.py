"""What every recurrent memory must do beside what every reader must."""

from __future__ import annotations

from itertools import pairwise

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

from ltm.errors import BankMismatchError
from ltm.methods.recurrent.base import Recurrent


@pytest.fixture(params=ARCHITECTURES)
def backbone(request, tiny_backbone):
    return tiny_backbone(request.param, DTYPES.get(request.param, "float64"))


@pytest.fixture(params=methods_of(Recurrent))
def method(request, backbone):
    return build(request.param, backbone)


def test_the_state_does_not_grow(method):
    method.read(tokens(length=11))
    held = method.memory.nbytes
    method.read(tokens(length=170))
    assert method.memory.nbytes == held > 0
    stream = method.new_cache()
    sizes = []
    for piece in tokens(length=120).split(40, dim=1):
        logits(method, piece, cache=stream, use_cache=True)
        sizes.append(stream.carried["state"].nbytes)
    assert sizes[0] == sizes[1] == sizes[2] == held


def test_what_was_read_long_ago_still_matters(method):
    """Many windows back: by the state alone."""
    one, other = tokens(length=60), tokens(length=60)
    other[:, :4] = (other[:, :4] + 7) % 80 + 5
    whole, changed = logits(method, one), logits(method, other)
    assert far_apart(whole[:, -8:], changed[:, -8:])


def test_whole_equals_in_pieces_equals_token_by_token(method):
    ids = tokens()
    method.read(tokens(length=37, seed=7))
    whole = logits(method, ids)
    for cuts in ([0, 1, 8, 20, 21, 29], list(range(30))):
        stream = method.new_cache()
        parts = [logits(method, ids[:, a:b], cache=stream, use_cache=True) for a, b in pairwise(cuts)]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, **CLOSE)


def test_reading_at_segments_ends_equals_reading_whole(method):
    ids, size = tokens(length=50), method.method_config.segment_size
    method.read(ids)
    parts = method.new_memory(2)
    for piece in ids.split(size, dim=1):
        method.read(piece, memory=parts)
    for own, other in zip(method.memory.rows, parts.rows, strict=True):
        for name in own:
            torch.testing.assert_close(own[name], other[name], **CLOSE)


def test_padding_changes_nothing_in_reading_scoring_and_training(method):
    ids, mask = tokens(), torch.ones(2, 29, dtype=torch.long)
    for padding in (slice(0, 11), slice(20, 29), slice(5, 14)):
        mask[1] = 1
        mask[1, padding] = 0
        alone_ids = ids[1:, mask[1].bool()]
        read, alone = method.new_memory(), method.new_memory()
        method.read(ids, mask, memory=read)
        method.read(alone_ids, memory=alone)
        for name, tensor in alone.rows[0].items():
            torch.testing.assert_close(read.rows[1][name], tensor, **CLOSE)
        scored = logits(method, ids, attention_mask=mask, memory=read)[1, mask[1].bool()]
        torch.testing.assert_close(scored, logits(method, alone_ids, memory=alone)[0], **CLOSE)


def test_a_row_of_padding_keeps_its_state(method):
    memory, mask = method.new_memory(2), torch.ones(2, 9, dtype=torch.long)
    method.read(tokens(length=20), memory=memory)
    before, mask[1] = memory.rows[1], 0
    with torch.no_grad():
        method(tokens(length=9), attention_mask=mask, memory=memory, remember=True)
    method.read(tokens(length=9), mask, memory=memory)
    assert memory.rows[1] is before and memory.rows[0] is not before


def test_beams_and_rows_carry_their_own(method):
    """Past several windows, so that beams part before a state is updated."""
    ids, options = tokens(length=9), {"do_sample": False, "num_beams": 3, "max_new_tokens": 20, "min_new_tokens": 20}
    method.read(tokens(length=37, seed=7))
    both = method.generate(ids, pad_token_id=0, **options)
    for row in range(2):
        alone = method.generate(ids[row : row + 1], pad_token_id=0, memory_rows=[row], **options)
        assert torch.equal(both[row : row + 1], alone)


def test_a_gradient_reaches_the_first_segment_from_the_last_loss_until_it_is_cut(method):
    """Of the state after segment 1 from the loss of segment 3; detached, none: one segment at a time is that."""
    size, memory = method.method_config.segment_size, method.new_memory(2)
    first, second, third = tokens(length=3 * size).split(size, dim=1)
    method(first, memory=memory, remember=True)
    written = next(iter(memory.rows[0].values()))
    written.retain_grad()
    method(second, memory=memory, remember=True)
    method(third, labels=third, memory=memory, remember=True).loss.backward(retain_graph=True)
    assert written.grad is not None and float(written.grad.abs().sum()) > 0
    written.grad = None
    memory.detach()
    loss = method(third, labels=third, memory=memory, remember=True).loss
    if loss.requires_grad:  # where anything that is trained took part in this segment
        loss.backward()
    assert written.grad is None


def test_training_by_segments_scores_as_the_stream_does(method):
    """What `remember` scores is what a stream scores, and what it leaves is what reading leaves."""
    ids = tokens(length=29)
    trained, read = method.new_memory(), method.new_memory()
    with torch.no_grad():
        scored = method(ids, memory=trained, remember=True).logits
    torch.testing.assert_close(scored, logits(method, ids), **CLOSE)
    method.read(ids, memory=read)
    for name, tensor in read.rows[0].items():
        torch.testing.assert_close(trained.rows[0][name], tensor, **CLOSE)


def test_off_equals_the_backbone_and_nothing_is_left_on_it(method, backbone):
    ids = tokens(length=7)
    plain = backbone.model(ids).logits
    method.read(tokens(length=20))
    assert far_apart(logits(method, ids), plain)
    torch.testing.assert_close(logits(method, ids, memory=None), plain, **CLOSE)
    assert torch.equal(backbone.model(ids).logits, plain)


def test_saved_and_loaded_it_answers_the_same(method, tmp_path):
    method.read(tokens(length=37))
    answers_elsewhere(method, tmp_path)


@pytest.mark.slow
def test_another_process_loads_it_and_answers_the_same(method, tmp_path):
    method.read(tokens(length=37))
    answers_elsewhere(method, tmp_path, in_another_process=True)


def test_a_state_of_other_weights_or_another_backbone_is_refused(method, tiny_backbone, tmp_path):
    method.read(tokens(length=20))
    method.memory.save(tmp_path)
    other = build(method.name, method.backbone)
    parameter = next(other.trainable_parameters(), None)
    if parameter is not None:
        with torch.no_grad():
            parameter.mul_(1.5)
        with pytest.raises(BankMismatchError, match="trained"):
            other.load_memory(tmp_path)
    elsewhere = build(method.name, another_backbone(method, tiny_backbone))
    with pytest.raises(BankMismatchError, match="not for this model"):
        elsewhere.load_memory(tmp_path)
