"""What a method's card says of deleted documents is what its banks hold."""

from __future__ import annotations

import pytest
import torch

from ltm.methods import METHODS

WITH_BANKS = sorted(name for name, method in METHODS.items() if method.keeps_bank)


def tokens(length, seed):
    return torch.randint(5, 90, (1, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=WITH_BANKS)
def build(request, tiny_backbone):
    def make(*documents):
        """A method that read documents of so many tokens, the ids of these its names."""
        torch.manual_seed(1)
        method = METHODS[request.param](tiny_backbone("tiny-llama"), METHODS[request.param].config_class.tiny()).eval()
        method.use_bank(method.new_bank(1))
        ids = {}
        for seed, length in documents:
            ids[seed] = method.bank.add_document(str(seed), text="x" * length)
            method.read(tokens(length, seed), documents=[ids[seed]])
        return method, ids

    return make


def entries(method, count):
    """Keys and values of the last tokens of each kept layer, and their token ids."""
    chunks = method.bank.chunks(0)
    held = torch.arange(method.bank.config.chunk_size)[None] < chunks["counts"][:, None]
    keys, values = (chunks[name][:, :, held][:, :, -count:] for name in ("keys", "values"))
    return keys, values, chunks["token_ids"][held][-count:]


def differences(method, other, count):
    """Of each layer's keys and values, the largest."""
    *ours, ids = entries(method, count)
    *theirs, same_ids = entries(other, count)
    assert torch.equal(ids, same_ids) and len(ids) == count
    return [
        float((a - b).abs().max()) for one, two in zip(ours, theirs, strict=True) for a, b in zip(one, two, strict=True)
    ]


@pytest.mark.parametrize("evicted", [False, True], ids=["held", "evicted"])
def test_a_deleted_document_leaves_what_the_card_says(build, evicted):
    """Evicted: later texts push it out before it is deleted, where the method lets go of anything."""
    after = [(2, 12), (3, 24)] if evicted else [(2, 12)]
    method, ids = build((1, 14), *after)
    never, _ = build(*after)
    held = next(info.num_tokens for info in method.bank.documents if info.id == ids[1])
    if evicted and held == 14:
        pytest.skip("holds all of it")
    method.bank.delete_document(ids[1])
    assert [info.name for info in method.bank.documents] == [str(seed) for seed, _ in after]
    found = differences(method, never, 12)
    assert (max(found, default=0) > 1e-3) == bool(method.card.deletion)
    if method.card.deletion:
        layers = method.backbone.view.num_layers
        firsts = found[0], found[layers]  # keys and values of layer 0, of which the cards say that it is clean
        assert max(firsts) < 1e-5
