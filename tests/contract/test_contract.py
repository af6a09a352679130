"""What every method must do on every architecture: the contract of docs/design.md, section 7.

In float64, so that no near tie of two remembered chunks is decided by rounding. transformers computes norms, rotary
angles and eager softmax in float32 whatever the model's dtype, which leaves differences of about 1e-6.
"""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from contract.families import cases_of

from ltm.attention import attach
from ltm.backbone import TINY_ARCHITECTURES, load_backbone
from ltm.methods import METHODS, Reader, create_method, load_method
from ltm.methods.recurrent.base import Recurrent
from ltm.streams import StreamMemory

READERS = METHODS.of(Reader)

TOLERANCE = {"atol": 1e-5, "rtol": 1e-4}
VOCAB, LENGTH, PAST = 90, 29, 37  # awkward on purpose: no multiples of windows, segments or chunks

_BACKBONES: dict = {}
# transformers' eager attention, which Gemma 2 needs for its capped logits, makes NaN of padding in float64.
DTYPES = {"tiny-gemma2": torch.float32}
# Options, of the methods that have them, with which a method starts as the backbone and fits its tiny models.
AS_THE_BACKBONE = {"start": "identity", "reduction_factor": 2, "window_counts": False}


def backbone_named(name):
    if name not in _BACKBONES:
        _BACKBONES[name] = load_backbone(name, dtype=DTYPES.get(name, torch.float64))
    return _BACKBONES[name]


@pytest.fixture(params=cases_of(READERS))
def method(request):
    name, architecture = request.param
    return build(name, backbone_named(architecture))


@pytest.fixture
def backbone(method):
    return method.backbone


def build(name, backbone):
    """A method with its tiny config, with weights that make its memory matter."""
    torch.manual_seed(1)
    method = METHODS[name](backbone, METHODS[name].config_class.tiny()).to(backbone.dtype).eval()
    return method


def tokens(rows=2, length=LENGTH, seed=0):
    return torch.randint(5, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def past(rows=2):
    return tokens(rows, PAST, seed=7)


def logits(method, ids, **kwargs):
    with torch.no_grad():
        return method(ids, **kwargs).logits


def test_off_equals_the_backbone(method, backbone):
    """Nothing read and everything in the window: the plain model, for methods that do not change it."""
    ids, name = tokens(length=9), method.name
    known = {field.name for field in fields(METHODS[name].config_class)}
    options = {option: value for option, value in AS_THE_BACKBONE.items() if option in known}
    method = create_method(name, backbone, **options).to(backbone.dtype)
    # a recurrent method's state stands before every text, also before anything was read
    without = {"memory": None} if isinstance(method, Recurrent) else {}
    torch.testing.assert_close(logits(method, ids, **without), backbone.model(ids).logits, **TOLERANCE)


def test_attached_and_detached_the_model_is_bit_identical(method, backbone):
    ids = tokens(length=9)
    before = backbone.model(ids).logits
    name = backbone.model.config._attn_implementation
    method.read(past())
    logits(method, ids)
    assert backbone.model.config._attn_implementation == name
    assert torch.equal(backbone.model(ids).logits, before)


def test_reading_changes_the_output_and_reset_restores_it(method):
    ids = tokens(length=7)
    before = logits(method, ids)
    method.read(past())
    with_memory = logits(method, ids)
    assert float((with_memory - before).abs().max()) > 1e-4
    method.reset()
    torch.testing.assert_close(logits(method, ids), before, **TOLERANCE)


def test_reset_of_one_row_leaves_the_other(method):
    ids = tokens(length=7)
    fresh = logits(method, ids)
    method.read(past())
    full = logits(method, ids)
    method.reset(rows=[0])
    after = logits(method, ids)
    torch.testing.assert_close(after[1], full[1], **TOLERANCE)
    torch.testing.assert_close(after[0], fresh[0], **TOLERANCE)


def test_left_padded_equals_unpadded_and_a_row_alone_equals_the_row_in_a_ragged_batch(method):
    ids, short = tokens(), LENGTH - 11
    mask = torch.ones_like(ids)
    mask[1, :11] = 0
    method.read(past())
    batch = logits(method, ids, attention_mask=mask)
    alone = logits(method, ids[1:, 11:], memory_rows=[1])
    assert alone.shape[1] == short
    torch.testing.assert_close(batch[1:, 11:], alone, **TOLERANCE)
    torch.testing.assert_close(batch[:1], logits(method, ids[:1], memory_rows=[0]), **TOLERANCE)


def test_reading_padded_rows_equals_reading_each_alone(method):
    ids, mask = past(), torch.ones(2, PAST, dtype=torch.long)
    mask[1, :13] = 0
    method.read(ids, mask)
    batch = logits(method, tokens(length=7))
    method.reset()
    method.memory = method.new_memory()
    method.read(ids[1:, 13:])
    torch.testing.assert_close(logits(method, tokens(length=7)[1:]), batch[1:], **TOLERANCE)


def test_a_row_of_padding_alone_changes_nothing_for_the_others(method):
    """In reading, scoring and generating; what comes of it is finite."""
    ids, mask = past(), torch.ones(2, PAST, dtype=torch.long)
    mask[1] = 0
    method.read(ids, mask)
    present, present_mask = tokens(length=9), torch.ones(2, 9, dtype=torch.long)
    present_mask[1] = 0
    options = {"do_sample": False, "max_new_tokens": 5, "min_new_tokens": 5, "pad_token_id": 0}
    found = logits(method, present, attention_mask=present_mask)
    out = method.generate(present, attention_mask=present_mask, **options)
    assert bool(found.isfinite().all()) and out.shape == (2, 14)
    torch.testing.assert_close(logits(method, present[:1], memory_rows=[0]), found[:1], **TOLERANCE)
    assert torch.equal(method.generate(present[:1], memory_rows=[0], **options), out[:1])


def test_whole_equals_in_pieces_equals_token_by_token(method):
    ids = tokens()
    method.read(past())
    whole = logits(method, ids)
    for cuts in ([0, 1, 8, 20, 21, LENGTH], list(range(LENGTH + 1))):
        cache = method.new_cache()
        pieces = [
            logits(method, ids[:, a:b], cache=cache, use_cache=True) for a, b in zip(cuts, cuts[1:], strict=False)
        ]
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole, **TOLERANCE)


def test_no_later_token_changes_an_earlier_output(method):
    ids = tokens()
    method.read(past())
    changed = ids.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % VOCAB + 5
    one, other = logits(method, ids), logits(method, changed)
    assert float((one[:, 20:] - other[:, 20:]).abs().max()) > 1e-4
    torch.testing.assert_close(one[:, :20], other[:, :20], **TOLERANCE)


def test_rows_do_not_see_each_other(method):
    ids = tokens(length=7)
    method.read(past())
    before = logits(method, ids)
    method.reset()
    method.memory = method.new_memory()
    other = past()
    other[1] = (other[1] + 3) % VOCAB + 5
    method.read(other)
    after = logits(method, ids)
    torch.testing.assert_close(after[0], before[0], **TOLERANCE)
    assert float((after[1] - before[1]).abs().max()) > 1e-4


def test_scoring_leaves_the_memory_unchanged(method):
    ids = tokens()
    method.read(past())
    first = logits(method, ids)
    torch.testing.assert_close(logits(method, ids), first, **TOLERANCE)


def test_greedy_beams_and_sampling_run_past_the_window(method):
    ids, mask = tokens(length=9), torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    method.read(past())
    options = {"attention_mask": mask, "max_new_tokens": 9, "min_new_tokens": 9, "pad_token_id": 0}
    greedy = method.generate(ids, do_sample=False, **options)
    alone = method.generate(
        ids[:1, 3:], do_sample=False, memory_rows=[0], max_new_tokens=9, min_new_tokens=9, pad_token_id=0
    )
    assert torch.equal(greedy[:1, 3:], alone)
    beams = method.generate(ids, do_sample=False, num_beams=3, **options)
    one_row = method.generate(
        ids[1:], do_sample=False, num_beams=3, memory_rows=[1], max_new_tokens=9, min_new_tokens=9, pad_token_id=0
    )
    assert torch.equal(beams[1:], one_row)
    torch.manual_seed(0)
    assert method.generate(ids, do_sample=True, num_return_sequences=2, **options).shape == (4, 18)


def test_generating_equals_scoring_what_was_generated(method):
    ids = tokens(length=9)
    method.read(past())
    out = method.generate(ids, do_sample=False, max_new_tokens=12, min_new_tokens=12, pad_token_id=0)
    scores = logits(method, out)[:, 8:-1]
    if method.generation_config.eos_token_id is not None:
        scores[..., method.generation_config.eos_token_id] = float("-inf")  # min_new_tokens forbids the end
    predicted = scores.argmax(dim=-1)
    assert torch.equal(predicted, out[:, 9:])


def test_save_and_load_give_equal_logits(method, backbone, tmp_path):
    ids = tokens()
    method.save_pretrained(tmp_path)
    loaded = load_method(backbone, tmp_path, trainable=True).to(backbone.dtype).eval()
    method.read(past())
    loaded.read(past())
    # weights are stored in float32: as large as the rounding of random weights through a few layers
    torch.testing.assert_close(logits(loaded, ids), logits(method, ids), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("keep", [1, 5, 20])
def test_the_last_logits_alone_are_the_last_of_all(method, keep):
    """Also over several windows, of which most need no logits at all."""
    method.read(past())
    ids = tokens(length=LENGTH)
    with torch.no_grad():
        last = method(ids, logits_to_keep=keep).logits
    assert last.shape[1] == keep
    torch.testing.assert_close(last, logits(method, ids)[:, -keep:], **TOLERANCE)


def test_two_methods_on_one_backbone_share_nothing(method, backbone):
    ids = tokens(length=7)
    other = build(method.name, backbone)
    expected = logits(other, ids)
    method.read(past())
    logits(method, ids)
    torch.testing.assert_close(logits(other, ids), expected, **TOLERANCE)


def test_gradients_equal_with_and_without_checkpointing(method):
    if not method.num_trainable:
        pytest.skip("nothing to train")
    ids, gradients = tokens(), []
    for checkpointing in (False, True):
        if checkpointing:
            method.activation_checkpointing_enable()
        method.train()
        torch.manual_seed(0)  # GPT-2 and OPT have dropout
        method.zero_grad()
        method.reset()
        method.read(past())
        loss = method(ids, labels=ids, remember=True).loss
        if not loss.requires_grad:  # what is trained is where memories start, and this one has gone on from there
            method.reset()
            loss = method(ids, labels=ids, remember=True).loss
        # what is remembered after scoring must not reach the backward pass of what was scored
        loss.backward()
        gradients.append([p.grad.clone() for p in method.trainable_parameters() if p.grad is not None])
    assert sum(float(g.abs().sum()) for g in gradients[0]) > 0
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(p.grad is None for p in method.model.parameters())


def test_the_budget_holds_in_bytes(method):
    if method.new_cache().window is None:
        pytest.skip("full context has no budget")
    method.read(tokens(2, 120, seed=3))
    held = method.memory.nbytes
    method.read(tokens(2, 160, seed=4))
    if method.bank is None and not isinstance(method.memory, StreamMemory):
        assert 0 < method.memory.nbytes <= held
    elif method.bank is None:
        assert max(len(row) for row in method.memory.past.tokens) <= method.method_config.local_window
    else:
        assert max(method.bank.num_tokens(row) for row in range(2)) <= method.method_config.memory_size
        assert method.bank.nbytes <= held


@pytest.mark.parametrize("architecture", sorted(TINY_ARCHITECTURES))
def test_keys_are_free_of_positions(architecture):
    """At layer 0 a key without its position depends on its token alone: only so can it be moved."""
    backbone = backbone_named(architecture)
    from ltm.methods.attention.memory_reader import KeyValueTap

    if not backbone.view.has_rotary:
        pytest.skip("learned positions are part of the embedding; there is nothing to take off")
    ids, found = tokens(1, 5), []
    for start in (0, 7):
        tap = KeyValueTap(0)
        with attach(backbone.view, tap):
            backbone.model(ids, position_ids=torch.arange(start, start + 5)[None], use_cache=False)
        found.append(tap.keys)
    assert float(found[0].abs().max()) > 0
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)  # angles are computed in float32
