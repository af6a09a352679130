"""Search over all heads together, and what followed the tokens found."""

from __future__ import annotations

import pytest
import torch

from ltm.bank import Bank, BankConfig, joint_search
from ltm.bank import following as following_module
from ltm.errors import BankError

HEADS, DIM = 2, 4


def bank(**options):
    return Bank(BankConfig(**{"chunk_size": 2, **options}), num_rows=2, num_kv_heads=HEADS, head_dim=DIM)


def keys(tokens, seed=0):
    return torch.randn(1, HEADS, tokens, DIM, generator=torch.Generator().manual_seed(seed))


def following(memory, slots_asked=100, row=0):
    """{key of a token (rounded): the token that followed}, as `neighbours` tells it for everything in a row."""
    found = memory.neighbours(torch.randn(1, HEADS, 1, DIM), slots_asked, rows=[row])
    known = {}
    for slot, next_id in enumerate(found.next_ids[0, 0].tolist()):
        if bool(found.hits.valid[0, 0, 0, slot // memory.config.chunk_size]):
            known[round(float(found.keys[0, 0, 0, slot, 0]), 4)] = next_id
    if 0.0 in known:  # what fills up a short chunk
        assert known.pop(0.0) == -1
    return known


def expected(written, next_ids):
    return {round(float(value), 4): n for value, n in zip(written[0, 0, :, 0], next_ids, strict=True)}


@pytest.mark.parametrize(("queries", "chunks", "top_k"), [(1, 5, 3), (7, 3000, 16), (70, 63, 63)])
def test_joint_search_sums_the_heads(queries, chunks, top_k):
    generator = torch.Generator().manual_seed(0)
    asked = torch.randn(3, queries, 8, generator=generator)
    held = torch.randn(3, chunks, 8, generator=generator)
    products = torch.einsum("hqd,hcd->qc", asked.double(), held.double())
    best = products.topk(top_k, dim=-1)
    for parts in ([held], [held[:, :2], held[:, 2:]]):
        scores, indices = joint_search(asked, parts, top_k)
        torch.testing.assert_close(scores.double(), best.values, atol=1e-4, rtol=1e-4)
        assert torch.equal(indices, best.indices)


def test_the_token_after_each_is_named():
    memory, written = bank(), keys(5)
    memory.write(written, written, torch.tensor([[11, 12, 13, 14, 15]]), rows=[0])
    assert following(memory) == expected(written, [12, 13, 14, 15, -1])


def test_a_later_write_goes_on_in_the_same_document():
    """Short chunks too: the last token of a write is followed by the first of the next."""
    memory, first, second = bank(), keys(3), keys(3, seed=1)
    memory.write(first, first, torch.tensor([[11, 12, 13]]), rows=[0])
    memory.write(second, second, torch.tensor([[21, 22, 23]]), rows=[0])
    assert following(memory) == expected(first, [12, 13, 21]) | expected(second, [22, 23, -1])


def test_another_document_does_not_follow():
    memory, first, second = bank(), keys(4), keys(4, seed=1)
    for name, part, ids in (("a", first, [11, 12, 13, 14]), ("b", second, [21, 22, 23, 24])):
        memory.write(part, part, torch.tensor([ids]), rows=[0], documents=[memory.add_document(name)])
    assert following(memory) == expected(first, [12, 13, 14, -1]) | expected(second, [22, 23, 24, -1])


def test_what_was_deleted_between_two_does_not_join_them():
    memory, parts = bank(), [keys(2, seed) for seed in range(3)]
    documents = [memory.add_document(name) for name in "aba"]
    for part, document, start in zip(parts, (documents[0], documents[1], documents[0]), (10, 20, 30), strict=True):
        memory.write(part, part, torch.tensor([[start, start + 1]]), rows=[0], documents=[document])
    memory.delete_document(documents[1])
    assert following(memory) == expected(parts[0], [11, -1]) | expected(parts[2], [31, -1])


def test_eviction_wraps_around_and_rows_stay_apart():
    memory, other = bank(memory_size=6), keys(2, seed=9)
    memory.write(other, other, torch.tensor([[91, 92]]), rows=[1])
    for seed in range(5):
        part = keys(2, seed)
        memory.write(part, part, torch.tensor([[10 * seed, 10 * seed + 1]]), rows=[0])
    held = [expected(keys(2, seed), [10 * seed + 1, 10 * seed + 10 if seed < 4 else -1]) for seed in (2, 3, 4)]
    assert following(memory) == held[0] | held[1] | held[2]
    assert following(memory, row=1) == expected(other, [92, -1])


def test_saved_and_mapped_it_says_the_same(tmp_path):
    memory, written = bank(), keys(7)
    memory.write(written, written, torch.tensor([list(range(11, 18))]), rows=[0])
    memory.save(tmp_path / "bank")
    assert following(Bank.load(tmp_path / "bank")) == following(memory) == expected(written, [*range(12, 18), -1])


def test_queries_need_one_head_a_kv_head():
    memory, written = bank(), keys(4)
    memory.write(written, written, torch.tensor([[1, 2, 3, 4]]), rows=[0])
    with pytest.raises(BankError, match="one a kv head"):
        memory.neighbours(torch.randn(1, 2 * HEADS, 1, DIM), 2)


def naive_run(chunks, at, recent):
    """How many tokens up to token `at` = (chunk, place) equal `recent`, in loops; chunks: [(document, ids)] of a row
    whose chunks were written one after the other."""
    (number, place), size, run = at, len(chunks[0][1]), 0
    while run < len(recent) and chunks[number][1][place] == recent[run]:
        run += 1
        place -= 1
        if place < 0:
            number, place = number - 1, size - 1
            if number < 0 or chunks[number][0] != chunks[at[0]][0] or len(chunks[number][1]) < size:
                break
    return run


@pytest.mark.parametrize("chunk_size", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 4, 7])
@pytest.mark.parametrize("few", [0, 20, 2048])  # one token back at a time, all at once, and first the one
def test_runs_equal_the_naive_ones(monkeypatch, chunk_size, length, few):
    """Documents, short chunks, and a ring that has wrapped around."""
    monkeypatch.setattr(following_module, "FEW", few)
    generator = torch.Generator().manual_seed(length)
    memory, chunks = bank(chunk_size=chunk_size, memory_size=20), []
    for name, tokens in (("a", 9), ("a", 5), ("b", 8), ("b", 4)):
        document = next((d.id for d in memory.documents if d.name == name), None)
        document = memory.add_document(name) if document is None else document
        ids = torch.randint(2, (tokens,), generator=generator)
        memory.write(keys(tokens), keys(tokens), ids[None], rows=[0], documents=[document])
        chunks += [(name, chunk.tolist()) for chunk in ids.split(chunk_size)]
    chunks = chunks[-memory.num_chunks(0) :]
    recent = torch.randint(2, (1, 6, length), generator=generator)
    recent[0, 0, -1] = -1  # nothing came before
    found = memory.neighbours(torch.randn(1, HEADS, 6, DIM), len(chunks), rows=[0], recent=recent)
    runs = found.runs[0].unflatten(-1, (len(chunks), chunk_size))
    seen = set()
    for query in range(6):
        for number, (_, ids) in enumerate(chunks):
            for place in range(len(ids)):
                if found.next_ids[0].unflatten(-1, (len(chunks), chunk_size))[query, number, place] >= 0:
                    expected = naive_run(chunks, (number, place), recent[0, query].tolist())
                    assert int(runs[query, number, place]) == expected
                    seen.add(expected)
    assert seen == set(range(length + 1)) or length == 7 and len(seen) > 4


def test_runs_do_not_cross_what_was_deleted():
    memory, part = bank(), keys(2)
    documents = [memory.add_document(name) for name in "aba"]
    for document in (documents[0], documents[1], documents[0]):
        memory.write(part, part, torch.tensor([[1, 1]]), rows=[0], documents=[document])
    recent = torch.ones(1, 1, 6, dtype=torch.int64)
    memory.delete_document(documents[1])
    found = memory.neighbours(torch.randn(1, HEADS, 1, DIM), 2, rows=[0], recent=recent)
    assert found.runs[0, 0].tolist() == [1, 0, 1, 0]  # the second tokens have no successor


def test_without_the_present_there_are_no_runs():
    memory, written = bank(), keys(4)
    memory.write(written, written, torch.tensor([[1, 1, 1, 1]]), rows=[0])
    assert memory.neighbours(torch.randn(1, HEADS, 1, DIM), 2, rows=[0]).runs.tolist() == [[[0, 0, 0, 0]]]


def test_the_latest_tokens_are_those_still_held():
    memory, written = bank(memory_size=8), keys(5)
    for start in (10, 20, 30):
        memory.write(written, written, torch.arange(start, start + 5)[None], rows=[0])
    assert memory.latest_tokens(0, 4).tolist() == [31, 32, 33, 34]
    assert memory.latest_tokens(0, 7).tolist() == [23, 24, 30, 31, 32, 33, 34]
    assert memory.latest_tokens(0, 100).tolist() == [22, 23, 24, 30, 31, 32, 33, 34]
    assert memory.latest_tokens(1, 3).tolist() == []
