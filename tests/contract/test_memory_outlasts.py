"""What a memory has to outlast: a read that fails, inference mode, copies, another dtype. For every method."""

from __future__ import annotations

import copy
import pickle
from contextlib import contextmanager

import pytest
import torch

from ltm.backbone import load_backbone
from ltm.errors import BankMismatchError, LtmError
from ltm.methods import METHODS, Reader
from ltm.methods.stream_reader import StreamReader
from ltm.streams import StreamMemory

READERS = METHODS.of(Reader)

TOLERANCE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture(params=READERS)
def build(request):
    """A function that makes methods of one kind, each on a backbone of its own, with weights that matter."""

    def make(dtype="float32"):
        torch.manual_seed(1)
        method = METHODS[request.param](load_backbone("tiny-llama"), METHODS[request.param].config_class.tiny())
        return method.to(getattr(torch, dtype)).eval()

    return make


def tokens(rows, length, seed):
    return torch.randint(5, 90, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(method, seed=1, rows=2):
    with torch.no_grad():
        return method(tokens(rows, 15, seed)).logits


@contextmanager
def failing_at(method, call):
    """A block in which the so-many-th pass through a layer in the middle fails, as one that runs out of memory does;
    None: none. Gives a list of the passes."""
    middle, calls = method.backbone.view.layers[2], []
    forward = type(middle).forward

    def failing(layer, *args, **kwargs):
        if layer is middle:
            calls.append(1)
            if len(calls) == call:
                raise MemoryError("in the middle of it")
        return forward(layer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(middle), "forward", failing)
        yield calls


@pytest.mark.parametrize("with_bank", [False, True])
@pytest.mark.parametrize("seen", ["something", "nothing"])
def test_a_read_that_fails_leaves_the_memory_as_it_was(build, monkeypatch, with_bank, seen):
    method, same = build(), build()
    if with_bank:
        if not (method.keeps_bank and isinstance(method, StreamReader)):
            pytest.skip("keeps no bank, or one in any case")
        for each in (method, same):
            each.use_bank(each.new_bank(2))
    if seen == "something":
        for each in (method, same):
            each.read(tokens(2, 25, 7))
    before, num_rows = logits(method), method.num_rows
    assert torch.equal(logits(same), before)
    monkeypatch.setattr("ltm.methods.attention.base.READ_BATCH_TOKENS", 16)
    with failing_at(same, None) as calls:
        same.read(tokens(2, 70, 8))  # more than tiny memories hold: the oldest have left by its last call
    if not calls:
        pytest.skip("reads without its backbone")
    with failing_at(method, len(calls)), pytest.raises(MemoryError):
        method.read(tokens(2, 70, 8))
    assert torch.equal(logits(method), before) and method.num_rows == num_rows
    method.read(tokens(2, 70, 8))
    assert torch.equal(logits(method), logits(same))


@pytest.mark.parametrize("first", [True, False], ids=["read in it", "read outside"])
def test_inference_mode_comes_and_goes(build, first):
    """Reading, scoring, streams and beams, each in inference mode and outside, in either order."""
    plain, method = build(), build()
    ids = tokens(2, 6, 3)
    options = {"max_new_tokens": 4, "num_beams": 2, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}

    def both(step, inside):
        expected = step(plain)
        with torch.inference_mode(inside):
            found = step(method)
        if expected is not None:
            assert torch.equal(found, expected)

    caches = {id(method): method.new_cache(), id(plain): plain.new_cache()}
    for number in range(2):
        inside = (number == 0) == first
        both(lambda each, n=number: each.read(tokens(2, 17, n)), inside)
        both(logits, not inside)
        both(lambda each, n=number: each(tokens(2, 5, 20 + n), cache=caches[id(each)]).logits.detach(), inside)
        both(lambda each: each.generate(ids, **options), inside)


def test_training_goes_on_after_inference_mode(build):
    method = build()
    if not method.num_trainable:
        pytest.skip("nothing to train")
    with torch.inference_mode():
        method.read(tokens(2, 25, 7))
        logits(method)
    ids = tokens(2, 29, 5)
    loss = method.train()(ids, labels=ids, remember=True).loss
    if not loss.requires_grad:  # rows that have read before no longer begin where RMT's training begins
        method.reset()
        loss = method(ids, labels=ids, remember=True).loss
    loss.backward()
    assert sum(float(p.grad.abs().sum()) for p in method.trainable_parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda method: pickle.loads(pickle.dumps(method))])
def test_a_copy_is_a_method_of_its_own(build, make_copy):
    method = build()
    method.read(tokens(2, 25, 7))
    before = logits(method)
    copied = make_copy(method)
    assert torch.equal(logits(copied), before)
    copied.read(tokens(2, 21, 8))
    assert torch.equal(logits(method), before) and not torch.equal(logits(copied), before)
    method.read(tokens(2, 21, 8))
    assert torch.equal(logits(copied), logits(method))
    out = copied.generate(tokens(2, 5, 3), max_new_tokens=3, pad_token_id=0)
    assert torch.equal(out, method.generate(tokens(2, 5, 3), max_new_tokens=3, pad_token_id=0))


@pytest.mark.parametrize("change", ["half", "bfloat16", "double"])
def test_another_dtype_goes_on_with_what_was_read_or_says_that_it_cannot(build, change):
    method, fresh = build(), build()
    method.read(tokens(2, 25, 7))
    getattr(method, change)(), getattr(fresh, change)()
    fresh.read(tokens(2, 25, 7))
    if not isinstance(method.memory, StreamMemory) or method.bank is not None:  # no text of it is kept beside it
        with pytest.raises(BankMismatchError, match="dtype"):
            logits(method)
        method.reset()
        method.read(tokens(2, 25, 7))
    found = logits(method)
    assert method.dtype == getattr(torch, {"half": "float16", "double": "float64"}.get(change, change))
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found, logits(fresh), **TOLERANCE)
    method.read(tokens(2, 21, 8))
    assert method.generate(tokens(2, 5, 3), max_new_tokens=3, min_new_tokens=3, pad_token_id=0).shape == (2, 8)


def test_a_model_that_moved_away_from_its_memory_says_so(build):
    method = build()
    method.read(tokens(2, 25, 7))
    method.to("meta")
    what = (
        "the model's weights are not in memory" if method.bank is None else "this memory lies on cpu, its model on meta"
    )
    with pytest.raises(LtmError, match=what):
        method(tokens(2, 5, 1).to("meta"))
