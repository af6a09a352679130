"""What every rule on a KeptCache must do beyond the reader's contract, on two architectures here and on ten nightly.

In float64, as tests/contract/test_contract.py, and for its reasons.
"""

from __future__ import annotations

import zlib
from functools import cache

import pytest
import torch

from ltm.attention import Plugin, attach, attend
from ltm.backbone import TINY_ARCHITECTURES, load_backbone
from ltm.errors import BankMismatchError
from ltm.methods import METHODS, create_method
from ltm.methods.cache.base import CacheRule
from ltm.streams.kept import EMPTY

TOLERANCE = {"atol": 1e-5, "rtol": 1e-4}
LENGTH, PAST = 29, 43
BUDGET, BLOCK = 10, 4
RULES = sorted(name for name, method in METHODS.items() if issubclass(method, CacheRule))


def chosen(rule):
    """Llama, and another architecture by the rule's name, for pull requests; the others are for the night."""
    others = sorted(set(TINY_ARCHITECTURES) - {"tiny-llama"})
    return {"tiny-llama", others[zlib.crc32(rule.encode()) % len(others)]}


CASES = [
    pytest.param(rule, name, marks=[] if name in chosen(rule) else pytest.mark.slow, id=f"{rule}-{name}")
    for rule in RULES
    for name in TINY_ARCHITECTURES
]


@cache
def backbone_of(name):
    # transformers' eager attention, which Gemma 2 needs for its capped logits, makes NaN of padding in float64
    return load_backbone(name, dtype=torch.float32 if name == "tiny-gemma2" else torch.float64)


def build(rule, name, **options):
    return create_method(rule, backbone_of(name), **{"budget": BUDGET, "block": BLOCK, **options})


def pytest_generate_tests(metafunc):
    if {"rule", "method"} & set(metafunc.fixturenames):
        metafunc.parametrize(("rule", "name"), CASES)


@pytest.fixture
def method(rule, name):
    return build(rule, name)


def tokens(rows=2, length=LENGTH, seed=0):
    return torch.randint(5, 90, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(method, ids, **kwargs):
    with torch.no_grad():
        return method(ids, **kwargs).logits


def pieces(method, ids, cuts, **kwargs):
    """Logits of a stream that comes in pieces, and the stream."""
    stream, found = method.new_cache(), []
    for start, end in zip(cuts, cuts[1:], strict=False):
        given = {name: value[:, start:end] for name, value in kwargs.items()}
        found.append(logits(method, ids[:, start:end], cache=stream, use_cache=True, **given))
    return torch.cat(found, dim=1), stream


def places(part):
    """Of each row and head the places it holds, in the order of its slots."""
    return [[[p for p in head if p != EMPTY] for head in row] for row in part.place.tolist()]


def test_without_a_limit_it_is_full_attention(rule, name):
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    expected = logits(create_method("full", backbone_of(name)), ids, attention_mask=mask)
    found = logits(build(rule, name, budget=None), ids, attention_mask=mask)
    torch.testing.assert_close(found[0], expected[0], **TOLERANCE)
    torch.testing.assert_close(found[1, 7:], expected[1, 7:], **TOLERANCE)


class Masked(Plugin):
    """Attention over a full cache under a mask of each layer, bool [1, heads, tokens, tokens]."""

    def __init__(self, masks):
        self.masks, self.local_layers = masks, range(len(masks))

    def attend_local(self, layer, local):
        return attend(local.query, local.key, local.value, self.masks[layer], local.scaling, local.softcap).output


def test_after_evictions_it_equals_a_masked_full_cache(rule, name):
    """A token sees its block, and of what came before what each head held when its block began."""
    method, ids = build(rule, name), tokens(rows=1)
    view = method.backbone.view
    group = view.num_heads // view.num_kv_heads
    masks = [torch.zeros(1, view.num_heads, LENGTH, LENGTH, dtype=torch.bool) for _ in view.layers]
    stream, found, evicted = method.new_cache(), [], 0
    for start in range(0, LENGTH, BLOCK):
        end = min(start + BLOCK, LENGTH)
        causal = torch.ones(end - start, end - start, dtype=torch.bool).tril()
        for layer, mask in enumerate(masks):
            for part in [] if stream.kept is None else stream.kept.layers[layer]:
                for head, held in zip(part.heads, places(part)[0], strict=True):
                    mask[0, head * group : (head + 1) * group, start:end, held] = True
                    evicted += start - len(held)
            mask[0, :, start:end, start:end] = causal
            window = view.sliding_window(layer)
            if window is not None:
                mask &= ~torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(-window)
        found.append(logits(method, ids[:, start:end], cache=stream, use_cache=True))
    with attach(view, Masked(masks)), torch.no_grad():
        expected = method.model(ids, use_cache=False).logits
    assert evicted
    torch.testing.assert_close(torch.cat(found, dim=1), expected, **TOLERANCE)


def test_the_budget_holds_in_bytes_however_much_is_read(method):
    """Of rows of two lengths: bytes that the tensors' storages take, which a mask would not save."""
    view, mask = method.backbone.view, torch.ones(2, 130, dtype=torch.bool)
    mask[1, 50:103] = False
    slots = 2 * view.num_layers * view.num_kv_heads * (BUDGET + BLOCK)
    for seed in range(2):
        method.read(tokens(2, 130, seed), mask)
        parts = method.memory.past.kept.parts
        assert max(part.num_slots for part in parts) <= BUDGET + BLOCK
        dense = [tensor for part in parts for tensor in part.dense.values()]
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in dense}
        assert 0 < sum(storages.values()) <= slots * 2 * view.head_dim * method.dtype.itemsize
        beside = sum(tensor.nbytes for part in parts for tensor in part.tensors()) - sum(t.nbytes for t in dense)
        assert beside <= slots * (8 + 2 * 8)  # a place, and at most two notes of eight bytes
        assert method.memory.nbytes == sum(t.nbytes for t in dense) + beside


def test_places_are_true_and_no_token_is_held_twice(rule, name):
    """In the first layer, whose keys depend on their token and position alone, kept keys are the full cache's."""
    method, ids = build(rule, name), tokens(2, PAST)
    mask = torch.ones_like(ids)
    mask[1, 3:14] = 0
    _, stream = pieces(method, ids, [0, 9, PAST], attention_mask=mask)
    full = create_method("full", backbone_of(name)).new_cache()
    for row in range(2):
        alone = ids[row : row + 1, mask[row].bool()]
        full.reset()
        logits(create_method("full", backbone_of(name)), alone, cache=full, use_cache=True)
        keys = full.caches[0].layers[0].keys[0]  # [kv_heads, tokens, head_dim]
        kept = stream.kept.layers[0][0]
        for head, held in enumerate(kept.place[row].tolist()):
            slots = [slot for slot, place in enumerate(held) if place != EMPTY]
            where = [held[slot] for slot in slots]
            torch.testing.assert_close(kept.dense["keys"][row, head, slots], keys[head, where], **TOLERANCE)
    for part in stream.kept.parts:
        for row, number in zip(places(part), mask.sum(dim=1).tolist(), strict=True):
            for held in row:
                assert held == sorted(set(held)) and held[0] >= 0 and held[-1] < number


def test_what_is_kept_scored_best(rule, name):
    if METHODS[rule].keep is not CacheRule.keep:
        pytest.skip("it does not keep by score alone")
    method, checked = build(rule, name), 0

    def spy(layer, held):
        nonlocal checked
        kept, scores = CacheRule.keep(method, layer, held), method.score(layer, held).expand_as(held.place)
        if method.method_config.heads == "same":
            scores = scores.mean(dim=1, keepdim=True).expand_as(held.place)
        assert int(kept.sum(dim=-1).max()) <= BUDGET
        for row in range(len(kept)):
            for head in range(kept.shape[1]):
                stay, leave = kept[row, head], held.held[row, head] & ~kept[row, head]
                if leave.any():
                    assert float(scores[row, head, stay].min()) >= float(scores[row, head, leave].max())
                    checked += 1
        return kept

    method.keep = spy
    logits(method, tokens())
    assert checked


def test_whole_equals_in_pieces_equals_token_by_token(rule, name):
    method, ids = build(rule, name), tokens()
    whole = logits(method, ids)
    full = logits(create_method("full", backbone_of(name)), ids)
    assert float((whole - full).abs().max()) > 1e-3  # something left that mattered
    for cuts in ([0, 1, 8, 20, 21, LENGTH], list(range(LENGTH + 1))):
        torch.testing.assert_close(pieces(method, ids, cuts)[0], whole, **TOLERANCE)


def test_padding_anywhere_and_other_rows_change_nothing(method):
    """Rows of two lengths, with padding before, between and after their tokens, in pieces."""
    ids, mask = tokens(2, PAST), torch.ones(2, PAST, dtype=torch.long)
    mask[0, 30:] = 0
    mask[1, :5] = mask[1, 17:26] = 0
    found, stream = pieces(method, ids, [0, 3, 20, 27, PAST], attention_mask=mask)
    assert stream.kept.num_slots <= BUDGET + BLOCK
    for row in range(2):
        valid = mask[row].bool()
        torch.testing.assert_close(found[row, valid], logits(method, ids[row : row + 1, valid])[0], **TOLERANCE)


def test_forks_go_on_each_for_itself(method):
    rows, middle, ends = [1, 0, 1], tokens(2, 7, seed=9), tokens(3, 9, seed=8)
    method.read(tokens(2, PAST, seed=7))
    stream = method.stream(rows=[0, 1])
    stream.push(middle)
    fork = stream.fork(rows)
    found = [fork.push(ends), fork.push(ends)]
    for number, row in enumerate(rows):
        alone = method.stream(rows=[row])
        alone.push(middle[row : row + 1])
        for logits_of_all in found:
            own = alone.push(ends[number : number + 1])[0]
            torch.testing.assert_close(logits_of_all[number], own, **TOLERANCE)


def test_saved_and_loaded_it_answers_the_same_to_the_bit(rule, name, tmp_path):
    method, ids = build(rule, name), tokens(length=9)
    memory = method.new_memory()
    method.read(tokens(2, PAST), memory=memory)
    memory.save(tmp_path)
    other = build(rule, name)
    loaded = other.load_memory(tmp_path)
    assert (loaded.num_rows, loaded.nbytes) == (2, memory.nbytes)
    assert torch.equal(logits(other, ids, memory=loaded), logits(method, ids, memory=memory))
    for user in (method, other):  # and goes on reading as the first does
        held = memory if user is method else loaded
        user.read(tokens(2, 21, seed=3), memory=held)
    assert torch.equal(logits(other, ids, memory=loaded), logits(method, ids, memory=memory))


def test_a_row_of_a_memory_selected_or_reset(method):
    ids = tokens(length=9)
    fresh = logits(method, ids)
    memory = method.new_memory(2)
    method.read(tokens(2, PAST), memory=memory)
    before = logits(method, ids, memory=memory)
    one = memory.select([1])
    torch.testing.assert_close(logits(method, ids[1:], memory=one)[0], before[1], **TOLERANCE)
    method.read(tokens(1, 20, seed=5), memory=one)
    torch.testing.assert_close(logits(method, ids, memory=memory), before, atol=0, rtol=0)
    memory.reset([0])
    after = logits(method, ids, memory=memory)
    torch.testing.assert_close(after[0], fresh[0], **TOLERANCE)
    torch.testing.assert_close(after[1], before[1], **TOLERANCE)


def test_a_read_that_fails_leaves_the_memory_as_it_was(method):
    ids = tokens(length=9)
    method.read(tokens(2, PAST))
    before, keep = logits(method, ids), method.keep
    method.keep = lambda layer, held: 1 / 0 if layer == 3 else keep(layer, held)
    with pytest.raises(ZeroDivisionError):
        method.read(tokens(2, 20, seed=4))
    method.keep = keep
    torch.testing.assert_close(logits(method, ids), before, atol=0, rtol=0)


def test_a_memory_of_other_options_is_refused(rule, name):
    memory = build(rule, name).new_memory(1)
    with pytest.raises(BankMismatchError, match=rf"kept by {rule}\(budget={BUDGET}.*would have kept others"):
        build(rule, name, budget=BUDGET + 1).read(tokens(1), memory=memory)


def test_positions_in_the_cache_are_the_true_ones_until_something_leaves(rule, name):
    if not backbone_of(name).view.has_rotary:
        pytest.skip("learned positions cannot be changed afterwards")
    ids = tokens()
    expected = logits(create_method("full", backbone_of(name)), ids)
    torch.testing.assert_close(logits(build(rule, name, budget=None, positions="cache"), ids), expected, **TOLERANCE)
    method, mask = build(rule, name, positions="cache"), torch.ones_like(ids)
    whole = logits(method, ids)
    torch.testing.assert_close(pieces(method, ids, list(range(LENGTH + 1)))[0], whole, **TOLERANCE)
    mask[1, :11] = 0
    padded = logits(method, ids, attention_mask=mask)
    torch.testing.assert_close(padded[1:, 11:], logits(method, ids[1:, 11:]), **TOLERANCE)
