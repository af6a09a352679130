"""The window in the pointer's reach: equal however tokens come, rows and forks keep to themselves, off is off."""

from __future__ import annotations

import pytest
import torch

from ltm.methods.attention.longmem import LongMem, LongMemConfig

SIZES = {
    "reduction_factor": 2,
    "memory_size": 40,
    "retrieved_tokens": 6,
    "pointer_tokens": 6,
    "pointer_window_tokens": 4,
    "segment_size": 24,
    "local_window": 24,
    "stride": 7,
    "start": "paper",
}


def build(tiny_backbone, name="tiny-llama", **options):
    backbone = tiny_backbone(name, "float64")
    torch.manual_seed(0)
    method = LongMem(backbone, LongMemConfig(**{**SIZES, **options})).to(backbone.dtype).eval()
    with torch.no_grad():
        method.sidenet.pointer.threshold.fill_(0.3)  # open at once
    return method


def tokens(rows, length, seed=0):
    return torch.randint(5, 9, (rows, length), generator=torch.Generator().manual_seed(seed))


def scored(method, ids, cuts, mask=None, keep=0, **given):
    stream, start, found = method.new_cache(), 0, []
    for end in cuts:
        own = None if mask is None else mask[:, :end].long()
        with torch.no_grad():
            call = {"cache": stream, "use_cache": True, "logits_to_keep": keep, **given}
            found.append(method(ids[:, start:end], attention_mask=own, **call).logits)
        start = end
    return torch.cat(found, dim=1)


CASES = {
    "plain": ("tiny-llama", {}),
    "sliding windows": ("tiny-mistral", {}),
    "coupled": ("tiny-llama", {"coupled": True}),
    "mixed": ("tiny-llama", {"backbone_share": True}),
    "what was read last": ("tiny-llama", {"recent_tokens": 9}),
}


@pytest.mark.parametrize("case", CASES)
def test_whole_in_pieces_and_one_by_one_are_the_same(tiny_backbone, case):
    name, options = CASES[case]
    method, ids = build(tiny_backbone, name, **options), tokens(2, 45)
    if options:
        method.read(tokens(2, 30, seed=1))
    whole = scored(method, ids, [45])
    for cuts in ([1, 10, 24, 25, 40, 45], range(1, 46)):
        torch.testing.assert_close(scored(method, ids, cuts), whole, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scored(method, ids, [45], keep=3), whole[:, -3:], atol=1e-5, rtol=1e-4)
    without = build(tiny_backbone, name, **options, pointer_window_tokens=0)
    without.memory = method.memory
    assert float((scored(without, ids, [45]) - whole).abs().max()) > 1e-2


def test_padding_anywhere_changes_nothing(tiny_backbone):
    """Before, between and after a row's tokens; the rows are full at different times."""
    method, ids = build(tiny_backbone), tokens(2, 50)
    plain = [scored(method, ids[row : row + 1, : 50 - 11 * row], [50 - 11 * row])[0] for row in range(2)]
    mask = torch.ones(2, 50, dtype=torch.bool)
    mask[1, [0, 1, 9, 20, 21, 22, 30, 31, 40, 41, 49]] = False
    padded = torch.zeros_like(ids)
    padded[0], padded[1, mask[1]] = ids[0], ids[1, :39]
    for cuts in ([50], [5, 10, 21, 22, 31, 32, 50]):
        found = scored(method, padded, cuts, mask)
        for row in range(2):
            torch.testing.assert_close(found[row, mask[row]], plain[row], atol=1e-5, rtol=1e-4)


def test_forked_rows_see_their_own_window(tiny_backbone):
    method, ids = build(tiny_backbone), tokens(1, 20)
    stream, endings = method.stream(), tokens(2, 12, seed=4)
    with torch.no_grad():
        stream.push(ids)
        forked = stream.fork([0, 0]).push(endings)
        for row in range(2):
            alone = method(torch.cat((ids, endings[row : row + 1]), dim=1)).logits[0, 20:]
            torch.testing.assert_close(forked[row], alone, atol=1e-5, rtol=1e-4)
    assert float((forked[0] - forked[1]).abs().max()) > 1e-2


def test_only_what_stands_far_enough_back_is_copied(tiny_backbone):
    """The 9th token is the first with a token to copy after, 8 back."""
    ids, logits = tokens(1, 12), []
    for most in (0, 4):
        with torch.no_grad():
            logits.append(build(tiny_backbone, pointer_window_tokens=most)(ids).logits[0])
    changed = (logits[0] - logits[1]).abs() > 1e-6  # [tokens, vocab]
    assert changed.any(dim=1).tolist() == [False] * 8 + [True] * 4
    assert changed[8].nonzero().flatten().tolist() == [int(ids[0, 1])]


def test_memory_off_leaves_the_window_out_of_reach(tiny_backbone):
    method, without = (build(tiny_backbone, pointer_window_tokens=most) for most in (4, 0))
    ids = tokens(1, 20)
    with torch.no_grad():
        torch.testing.assert_close(method(ids, memory=None).logits, without(ids, memory=None).logits)


def test_memory_that_is_turned_on_in_mid_window_finds_the_keys_of_all_of_it(tiny_backbone):
    method, ids = build(tiny_backbone), tokens(1, 40)
    stream = method.new_cache()
    with torch.no_grad():
        method(ids[:, :5], cache=stream, use_cache=True)
        with method.memory_off():
            method(ids[:, 5:14], cache=stream, use_cache=True)
        found = method(ids[:, 14:], cache=stream, use_cache=True).logits
        assert torch.equal(stream.tokens[0], ids[0, -len(stream.tokens[0]) :])
        expected = method(ids).logits[:, 14:]
    torch.testing.assert_close(found[:, :10], expected[:, :10], atol=1e-5, rtol=1e-4)
