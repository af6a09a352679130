"""The mixture of SideNet and backbone: against its naive reference, what counts as evidence, what it does to a text."""

from __future__ import annotations

import pytest
import torch
from reference.mixture import naive_mixture

from ltm.methods import create_method, load_method
from ltm.methods.attention.longmem import LongMem, LongMemConfig
from ltm.methods.attention.longmem.mixture import SHARES, backbone_shares, mix_with_backbone

SMALL = {
    "reduction_factor": 2,
    "memory_size": 40,
    "retrieved_tokens": 6,
    "pointer_tokens": 6,
    "segment_size": 8,
    "local_window": 12,
    "stride": 5,
    "start": "paper",
}


def build(tiny_backbone, name="tiny-llama", **options):
    backbone = tiny_backbone(name, "float64")
    torch.manual_seed(0)
    options = {**SMALL, "backbone_share": True, **options}
    return LongMem(backbone, LongMemConfig(**options)).to(backbone.dtype).eval()


def tokens(rows, length, seed=0):
    return torch.randint(5, 90, (rows, length), generator=torch.Generator().manual_seed(seed))


def experts(tokens_, vocab=11):
    generator = torch.Generator().manual_seed(3)
    side, backbone = torch.randn(2, 2, tokens_, vocab, generator=generator, dtype=torch.float64) * 3
    return side, backbone, torch.randint(0, vocab, (2, tokens_), generator=generator)


@pytest.mark.parametrize("length", [1, 2, 63, 100])
@pytest.mark.parametrize("pieces", [[], [1], [1, 2, 40], "each"])
def test_the_fast_path_equals_the_naive_reference(length, pieces):
    """Whole, in pieces, token by token: what comes of it, and the evidence in the end."""
    side, backbone, ids = experts(length)
    edges = [0, *(range(1, length) if pieces == "each" else (cut for cut in pieces if cut < length)), length]
    mixed, evidence = [], None
    for start, end in zip(edges, edges[1:], strict=False):
        part = slice(start, end)
        given = side[:, part], backbone[:, part], ids[:, part], torch.ones(2, end - start, dtype=torch.bool)
        logits, _, evidence = mix_with_backbone(*given, evidence)
        mixed.append(logits)
    found = torch.cat(mixed, dim=1).softmax(dim=-1)
    assert float((found - side.softmax(-1)).abs().max()) > 1e-3
    for row in range(2):
        one, two = (logits[row].softmax(dim=-1).tolist() for logits in (side, backbone))
        torch.testing.assert_close(found[row], torch.tensor(naive_mixture(one, two, ids[row].tolist())).double())


def test_padding_and_what_was_weighed_before_tell_nothing():
    side, backbone, ids = experts(9)
    fresh = torch.ones(2, 9, dtype=torch.bool)
    _, plain, expected = mix_with_backbone(side, backbone, ids, fresh, None)
    places = torch.tensor([0, 1, 2, 5, 6, 7, 8, 11, 12])
    wide = [torch.randn(2, 14, 11).double(), torch.randn(2, 14, 11).double(), torch.zeros(2, 14, dtype=torch.long)]
    for padded, tensor in zip(wide, (side, backbone, ids), strict=True):
        padded[:, places] = tensor
    mask = torch.zeros(2, 14, dtype=torch.bool)
    mask[:, places] = True
    _, shares, evidence = mix_with_backbone(*wide, mask, None)
    torch.testing.assert_close(shares[:, places], plain)
    for one, other in zip(evidence, expected, strict=True):
        torch.testing.assert_close(one, other)
    _, _, same = mix_with_backbone(*wide, torch.zeros_like(mask), evidence)
    for one, other in zip(same, evidence, strict=True):
        torch.testing.assert_close(one, other)


def test_shares_go_to_whoever_predicts_better_and_do_not_overflow():
    start = torch.zeros(1, len(SHARES)).log_softmax(-1)
    for ratio, end in ((0.5, SHARES[-1]), (-1.0, SHARES[0]), (200.0, SHARES[-1]), (-200.0, SHARES[0])):
        shares, weights = backbone_shares(torch.full((1, 1500), ratio), torch.ones(1, 1500, dtype=torch.bool), start)
        assert bool(weights.isfinite().all()) and float(shares[0, -1]) == pytest.approx(end, abs=0.01)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-mistral"])
def test_only_new_tokens_count_however_they_come(tiny_backbone, name):
    """Whole, one by one, and with the last logits alone: equal evidence, though windows are encoded anew."""
    method, ids = build(tiny_backbone, name), tokens(2, 41)
    method.read(tokens(2, 30, seed=1))
    states = []
    for cuts, keep in (([41], 0), ([41], 1), ([7, 20, 41], 1), (range(1, 42), 0)):
        stream, start = method.new_cache(), 0
        for end in cuts:
            with torch.no_grad():
                method(ids[:, start:end], cache=stream, use_cache=True, logits_to_keep=keep)
            start = end
        states.append([stream.carried[key] for key in ("backbone_weights", "backbone_ratio")])
    assert float((states[0][0] - states[0][0].mean(dim=1, keepdim=True)).abs().max()) > 1e-2
    for state in states[1:]:
        torch.testing.assert_close(state, states[0], atol=1e-5, rtol=1e-4)


def test_rows_that_fork_carry_their_own_evidence(tiny_backbone):
    method, ids = build(tiny_backbone), tokens(1, 20)
    stream = method.stream()
    stream.push(ids)
    endings = tokens(2, 9, seed=4)
    forked = stream.fork([0, 0]).push(endings)
    for row in range(2):
        alone = method(torch.cat((ids, endings[row : row + 1]), dim=1)).logits[0, 20:]
        torch.testing.assert_close(forked[row], alone, atol=1e-5, rtol=1e-4)


def test_nothing_is_mixed_in_training_and_labels_reach_the_sidenet_alone(tiny_backbone):
    mixed, plain = build(tiny_backbone), build(tiny_backbone, backbone_share=False)
    ids = tokens(2, 21)
    one, other = (method(ids, labels=ids, remember=True).loss for method in (mixed, plain))
    torch.testing.assert_close(one, other)
    mixed.reset()
    loss = mixed(ids, labels=ids).loss
    loss.backward()
    assert abs(loss.item() - plain(ids, labels=ids, memory=None).loss.item()) > 1e-4
    assert sum(float(p.grad.abs().sum()) for p in mixed.sidenet.parameters() if p.grad is not None) > 0
    assert all(p.grad is None for p in mixed.model.parameters())


def test_the_trace_gives_attention_what_the_backbone_leaves(tiny_backbone):
    plain, mixed = (build(tiny_backbone, pointer=False, backbone_share=share) for share in (False, True))
    past, ids, totals = tokens(1, 30, seed=1), tokens(1, 9), []
    for method in (plain, mixed):
        method.read(past)
        with method.trace() as trace, torch.no_grad():
            method(ids)
        totals.append([sum(chunk.weight for chunk in used) for used in trace.tokens(0)])
    assert len(totals[0]) == 9 and totals[0][0] > 0.1
    assert totals[1][0] == pytest.approx(totals[0][0] * (1 - sum(SHARES) / 4))
    assert all((1 - SHARES[-1]) * one <= other <= (1 - SHARES[0]) * one for one, other in zip(*totals, strict=True))


def test_saved_without_the_field_it_is_what_it_was(tiny_backbone, tmp_path):
    method = build(tiny_backbone, backbone_share=False)
    method.save_pretrained(tmp_path)
    file = tmp_path / "ltm_method.json"
    assert '"backbone_share": false' in file.read_text()
    file.write_text(file.read_text().replace('"backbone_share": false,', ""))
    assert not load_method(method.backbone, tmp_path).weighs_every_token


def test_the_ngram_cache_has_the_same_mixture_within(tiny_backbone, tmp_path):
    """The cache counts beside what its inner method says, mixed or not as it is asked."""
    method, ids = build(tiny_backbone), tokens(2, 30)
    method.save_pretrained(tmp_path)
    window = {"local_window": 12, "stride": 5, "inner": str(tmp_path)}
    for share, expected in ((None, True), (True, True), (False, False)):
        cache = create_method("ngram", method.backbone, backbone_share=share, **window).eval()
        assert cache.weighs_every_token is expected
        with torch.no_grad(), cache.memory_off(), method.memory_off():
            same = torch.allclose(cache(ids).logits, method(ids).logits, atol=1e-4)
        assert same is expected
