"""Writing, finding, fetching; rows apart; masks where there is less than was asked for; documents."""

from __future__ import annotations

import pytest
import torch
from bank.model_bank import ModelRow, assert_row_is, tokens_of
from reference.search import naive_search

from ltm.bank import Bank, BankConfig, ChunkSource
from ltm.errors import BankError, ConfigError


def filled(bank: Bank, *counts: int, seed: int = 0) -> list[ModelRow]:
    """Write so many tokens to each row; returns the model of each."""
    models = []
    for row, count in enumerate(counts):
        keys, values, ids = tokens_of(count, seed=seed + row)
        model = ModelRow(bank.config.chunk_size, bank.config.memory_size)
        if count:
            bank.write(keys, values, ids, rows=[row])
            model.write(keys.transpose(0, 1).transpose(0, 1), values, ids[0].tolist(), None)
        models.append(model)
    return models


def means(model: ModelRow) -> torch.Tensor:
    """The chunks' search keys, [kv_heads, chunks, head_dim]."""
    return torch.stack([chunk.keys[0].mean(dim=1) for chunk in model.chunks], dim=1)


def test_a_planted_chunk_is_found_by_its_key(make_bank):
    bank = make_bank(memory_size=4096)
    keys, values, ids = tokens_of(1000)
    planted = torch.full((2, 4, 8), 3.0) * torch.tensor([1.0, -1.0]).repeat(4)
    keys[0, :, 400:404] = planted
    bank.write(keys, values, ids)
    query = planted[:, :1].repeat_interleave(3, dim=0)[None]  # [1, 6 heads, 1 token, 8]
    found = bank.retrieve(query, 2)
    assert found.hits.slots[0, :, 0, 0].tolist() == [100] * 6
    assert torch.equal(found.keys[0, 0, 0, :4], planted[0])
    assert torch.equal(found.values[0, 5, 0, :4], values[0, 1, 400:404])
    assert bank.sources([100])[0].token_ids == ids[0, 400:404].tolist()


@pytest.mark.parametrize("index", ["exact", "faiss"])
@pytest.mark.parametrize("heads", [2, 6])
def test_retrieval_from_ragged_rows_is_the_reference(make_bank, index, heads):
    if index == "faiss":
        pytest.importorskip("faiss", reason="faiss is not installed")
    bank = make_bank(num_rows=4, memory_size=None, index=index)
    models = filled(bank, 1, 63, 0, 100)
    queries = torch.randn(4, heads, 5, 8, generator=torch.Generator().manual_seed(9))
    found = bank.retrieve(queries, 20)
    assert found.keys.shape == found.values.shape == (4, heads, 5, 80, 8) and found.mask.shape == (4, heads, 5, 80)
    for row, model in enumerate(models):
        count = min(20, len(model.chunks))
        assert found.hits.valid[row].sum(-1).eq(count).all() and found.hits.valid[row, ..., :count].all()
        assert (
            found.hits.scores[row, ..., count:].eq(float("-inf")).all()
            and found.hits.slots[row, ..., count:].eq(0).all()
        )
        assert not found.mask[row, ..., count * 4 :].any()
        if not count:
            continue
        scores, expected = naive_search(queries[row], means(model), 20)
        assert torch.equal(found.hits.slots[row, ..., :count], expected)
        torch.testing.assert_close(found.hits.scores[row, ..., :count].double(), scores, atol=1e-5, rtol=1e-5)
        for head, token, place in ((0, 0, 0), (heads - 1, 4, count - 1)):
            chunk = model.chunks[int(expected[head, token, place])]
            size, columns = len(chunk.token_ids), slice(place * 4, place * 4 + 4)
            assert found.mask[row, head, token, columns].sum() == size
            kept = found.keys[row, head, token, columns][:size], found.values[row, head, token, columns][:size]
            assert torch.equal(kept[0], chunk.keys[0, head // (heads // 2)])
            assert torch.equal(kept[1], chunk.values[0, head // (heads // 2)])
    assert found.keys.isfinite().all() and found.values.isfinite().all()


def test_batch_rows_may_share_a_memory_row(make_bank):
    bank = make_bank(num_rows=2)
    filled(bank, 50, 60)
    queries = torch.randn(3, 4, 7, 8)
    together = bank.retrieve(queries, 4, rows=torch.tensor([1, 0, 1]))
    for batch, row in enumerate((1, 0, 1)):
        alone = bank.retrieve(queries[batch : batch + 1], 4, rows=[row])
        assert torch.equal(together.hits.slots[batch], alone.hits.slots[0])
        assert torch.equal(together.keys[batch], alone.keys[0]) and torch.equal(together.mask[batch], alone.mask[0])
    assert not torch.equal(together.hits.slots[0], together.hits.slots[1])


def test_gather_takes_hits_of_an_earlier_search(make_bank):
    bank = make_bank(memory_size=40)
    keys, values, ids = tokens_of(40)
    bank.write(keys, values, ids)
    found = bank.retrieve(torch.randn(1, 2, 3, 8), 10)
    again = bank.gather(found.hits)
    assert (
        torch.equal(again[0], found.keys) and torch.equal(again[1], found.values) and torch.equal(again[2], found.mask)
    )
    bank.write(*tokens_of(8, seed=1))  # evicts slots 0 and 1
    later = bank.gather(found.hits)
    gone = (found.hits.slots < 2).repeat_interleave(4, dim=-1)
    assert torch.equal(later[2], ~gone) and gone.any()
    assert torch.equal(later[0][~gone], found.keys[~gone])
    bank.reset()
    assert not bank.gather(found.hits)[2].any()


def test_rows_do_not_see_each_other(make_bank):
    bank = make_bank(num_rows=3)
    models = filled(bank, 20, 0, 33)
    for row, model in enumerate(models):
        assert_row_is(bank, row, model)
    before = bank.retrieve(torch.ones(1, 2, 1, 8), 5, rows=[2])
    bank.write(*tokens_of(10, seed=7), rows=[1])
    bank.reset([0])
    after = bank.retrieve(torch.ones(1, 2, 1, 8), 5, rows=[2])
    assert all(torch.equal(one, two) for one, two in zip(before[:3], after[:3], strict=True))
    assert [bank.num_tokens(row) for row in range(3)] == [0, 10, 33]


def test_writing_in_pieces_at_chunk_boundaries_is_writing_at_once(make_bank):
    keys, values, ids = tokens_of(58)
    whole, pieces = make_bank(memory_size=44), make_bank(memory_size=44)
    whole.write(keys, values, ids)
    for start, end in ((0, 4), (4, 16), (16, 48), (48, 58)):
        pieces.write(keys[:, :, start:end], values[:, :, start:end], ids[:, start:end])
    query = torch.randn(1, 2, 3, 8)
    one, two = whole.retrieve(query, 11), pieces.retrieve(query, 11)
    assert one.mask.any() and torch.equal(one.hits.slots, two.hits.slots) and torch.equal(one.keys, two.keys)
    slots = range(whole.num_chunks() + 4)
    assert whole.sources(slots) == pieces.sources(slots)


def test_padding_is_passed_over_and_order_kept(make_bank):
    bank, plain = make_bank(num_rows=2), make_bank(num_rows=2)
    keys, values, ids = tokens_of(12, batch=2)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, :5] = False
    mask[1, 7:] = False
    bank.write(keys, values, ids, mask=mask, rows=[0, 1])
    plain.write(keys[:1, :, 5:], values[:1, :, 5:], ids[:1, 5:], rows=[0])
    plain.write(keys[1:, :, :7], values[1:, :, :7], ids[1:, :7], rows=[1])
    assert [bank.num_tokens(row) for row in (0, 1)] == [7, 7]
    query = torch.randn(2, 2, 1, 8)
    one, two = bank.retrieve(query, 3), plain.retrieve(query, 3)
    assert torch.equal(one.keys, two.keys) and torch.equal(one.mask, two.mask)
    bank.write(keys, values, ids, mask=torch.zeros_like(mask))
    assert bank.num_chunks(0) == 2


def test_batch_rows_written_to_one_row_come_one_after_another(make_bank):
    bank = make_bank()
    keys, values, ids = tokens_of(6, batch=2)
    bank.write(keys, values, ids, rows=[0, 0])
    assert [source.token_ids for source in bank.sources(range(4))] == [
        ids[0, :4].tolist(), ids[0, 4:].tolist(), ids[1, :4].tolist(), ids[1, 4:].tolist()
    ]  # fmt: skip


def test_several_layers(make_bank):
    bank = make_bank(layers=(3, 7), memory_size=20)
    keys, values, ids = tokens_of(30, batch=2)  # the batch serves as layers
    bank.write(keys[:, None], values[:, None], ids[:1])
    model = ModelRow(4, 20)
    model.write(keys, values, ids[0].tolist(), None)
    assert_row_is(bank, 0, model)
    query = torch.randn(1, 2, 1, 8)
    assert not torch.equal(bank.search(query, 3).scores, bank.search(query, 3, layer=1).scores)


def test_what_is_stored_is_a_detached_copy(make_bank):
    bank = make_bank()
    keys, values, ids = tokens_of(8)
    keys.requires_grad_()
    bank.write(keys * 1, values, ids)
    expected = keys.detach().clone()
    with torch.no_grad():
        keys.zero_()
        values.zero_()
    found = bank.retrieve(torch.randn(1, 2, 1, 8, requires_grad=True), 2)
    assert not found.keys.requires_grad and not found.hits.scores.requires_grad
    assert found.keys.abs().sum(-1).gt(0).all() and found.values.abs().sum(-1).gt(0).all()
    slots = found.hits.slots[0, 0, 0].tolist()
    assert torch.equal(found.keys[0, 0, 0].view(2, 4, 8)[0], expected[0, 0, slots[0] * 4 : slots[0] * 4 + 4])


def test_other_dtypes_are_taken_in_the_banks_own(make_bank):
    bank = make_bank(dtype=torch.bfloat16)
    keys, values, ids = tokens_of(10)
    bank.write(keys.double(), values.half(), ids.int())
    model = ModelRow(4)
    model.write(keys, values.half(), ids[0].tolist(), None)
    assert_row_is(bank, 0, model)
    assert bank.retrieve(torch.randn(1, 2, 1, 8), 2).keys.dtype == torch.bfloat16


def test_select_copies_rows_for_beams(make_bank):
    bank = make_bank(num_rows=2, memory_size=24)
    document = bank.add_document("one", row=1, text="text")
    keys, values, ids = tokens_of(20, batch=2)
    bank.write(keys, values, ids, documents=[None, document])
    beams = bank.select(torch.tensor([1, 1, 0]))
    assert beams.num_rows == 3 and beams.uuid != bank.uuid
    assert [(info.id, info.row, info.num_tokens) for info in beams.documents] == [(document, 0, 20)]
    assert beams.nbytes == bank.nbytes  # shared until written to
    query = torch.randn(1, 2, 1, 8)
    expected = bank.retrieve(query, 3, rows=[1])
    beams.write(*tokens_of(8, seed=5), rows=[0])
    bank.write(*tokens_of(8, seed=6), rows=[0])
    assert [beams.num_tokens(row) for row in range(3)] == [24, 20, 20]
    assert [bank.num_tokens(row) for row in range(2)] == [24, 20]
    for one in (bank.retrieve(query, 3, rows=[1]), beams.retrieve(query, 3, rows=[1])):
        assert torch.equal(one.hits.slots, expected.hits.slots) and torch.equal(one.keys, expected.keys)
    beams.delete_document(document)
    assert beams.num_tokens(0) == 8 and bank.num_tokens(1) == 20 and bank.document_text(document) == "text"
    again = beams.select([2, 2])
    assert again.num_tokens(1) == 20 and again.documents == []


def test_select_keeps_documents_that_a_row_holds(make_bank):
    bank = make_bank(num_rows=2)
    document = bank.add_document("one", row=0)
    bank.write(*tokens_of(8), rows=[1], documents=[document])
    (info,) = bank.select([1]).documents
    assert (info.row, info.num_tokens) == (0, 8)
    assert bank.select([0]).documents[0].num_tokens == 0


def test_documents_say_what_is_held_of_them(make_bank):
    bank = make_bank(memory_size=40)
    first = bank.add_document("first", text="a text")
    second = bank.add_document("second")
    bank.write(*tokens_of(30), documents=[first])
    bank.write(*tokens_of(18, seed=1), documents=[second])
    bank.finish_document(second)
    one, two = bank.documents
    assert (one.id, one.name, one.num_chars, one.complete) == (first, "first", 6, False)
    assert (one.num_tokens, one.num_chunks, two.num_tokens, two.num_chunks) == (22, 6, 18, 5)
    assert (two.num_chars, two.complete) == (0, True)
    assert bank.document_text(first) == "a text" and bank.document_text(second) is None


def test_sources_name_the_passage(make_bank):
    bank = make_bank(memory_size=16)
    text = "The whale is white."
    document = bank.add_document("moby", text=text)
    ids = torch.arange(7)[None]
    spans = torch.tensor([[0, 3], [3, 9], [9, 12], [12, 18], [18, 19], [-1, -1], [-1, -1]])[None]
    keys, values, _ = tokens_of(7)
    bank.write(keys, values, ids, documents=[document], spans=spans)
    bank.write(keys[:, :, :2], values[:, :, :2], ids[:, :2])
    one, two, three = bank.sources([0, 1, 2])
    assert one == ChunkSource(0, document, 0, 18, [0, 1, 2, 3]) and bank.passage(one) == "The whale is white"
    assert two == ChunkSource(1, document, 18, 19, [4, 5, 6]) and bank.passage(two) == "."
    assert three == ChunkSource(2, None, 0, 0, [0, 1]) and bank.passage(three) is None
    bank.write(*tokens_of(16, seed=2))
    assert bank.sources(torch.tensor([1])) == [ChunkSource(1, None, 0, 0, [])]
    with pytest.raises(BankError, match="slot 7 was never written to row 0"):
        bank.sources([7])


def test_deleting_is_as_if_it_had_never_been(make_bank):
    bank, other = make_bank(memory_size=None), make_bank(memory_size=None)
    kept, deleted = bank.add_document("kept", text="k"), bank.add_document("deleted", text="d")
    same = other.add_document("kept", text="k")
    for number in range(6):
        part = tokens_of(10, seed=number)
        bank.write(*part, documents=[deleted if number % 2 else kept])
        if not number % 2:
            other.write(*part, documents=[same])
    query = torch.randn(1, 4, 9, 8)
    before, expected = bank.retrieve(query, 6), other.retrieve(query, 6)
    assert not torch.equal(before.keys, expected.keys)
    bank.delete_document(deleted)
    after = bank.retrieve(query, 6)
    for name in ("keys", "values", "mask"):
        assert torch.equal(getattr(after, name), getattr(expected, name))
    assert torch.equal(after.hits.scores, expected.hits.scores) and bank.num_tokens() == other.num_tokens() == 30
    flat = after.hits.slots[0, 0, 0], expected.hits.slots[0, 0, 0]
    assert [s.token_ids for s in bank.sources(flat[0])] == [s.token_ids for s in other.sources(flat[1])]
    assert bank.documents == other.documents
    assert bank.nbytes <= other.nbytes
    with pytest.raises(BankError, match="no document 1 in this bank; its ids are 0"):
        bank.document_text(deleted)
    bank.write(*tokens_of(10, seed=9))
    assert bank.num_tokens() == 40


def test_reset_is_a_new_bank(make_bank):
    bank, new = make_bank(num_rows=2), make_bank(num_rows=2)
    bank.add_document("one", row=0)
    kept = bank.add_document("two", row=1)
    filled(bank, 30, 30)
    bank.reset([0])
    assert [info.id for info in bank.documents] == [kept] and bank.num_tokens(0) == 0
    bank.reset()
    assert bank.documents == [] and bank.nbytes == new.nbytes == 0
    filled(bank, 12, 20)
    filled(new, 12, 20)
    query = torch.randn(2, 2, 2, 8)
    one, two = bank.retrieve(query, 4), new.retrieve(query, 4)
    assert two.mask.any() and torch.equal(one.keys, two.keys) and torch.equal(one.mask, two.mask)


def test_an_empty_bank_gives_masked_zeros(make_bank):
    found = make_bank(num_rows=2).retrieve(torch.randn(2, 4, 3, 8), 5)
    assert found.keys.shape == (2, 4, 3, 20, 8) and not found.keys.any() and not found.values.any()
    assert not found.mask.any() and not found.hits.valid.any()


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives(make_bank):
    one, two = make_bank(memory_size=60, num_rows=2), make_bank(memory_size=60, num_rows=2, device="cuda")
    mask = torch.ones(2, 13, dtype=torch.bool)
    mask[1, :5] = False
    for seed in range(8):
        document = [bank.add_document(str(seed)) for bank in (one, two)][0]
        keys, values, ids = tokens_of(13, batch=2, seed=seed)
        one.write(keys, values, ids, mask=mask, documents=[document, None])
        two.write(keys.cuda(), values.cuda(), ids.cuda(), mask=mask.cuda(), documents=[document, None])
    for bank in (one, two):
        bank.delete_document(document)
    query = torch.randn(2, 4, 3, 8, generator=torch.Generator().manual_seed(0))
    expected, found = one.retrieve(query, 5), two.retrieve(query.cuda(), 5)
    assert found.keys.is_cuda and torch.equal(found.hits.slots.cpu(), expected.hits.slots)
    assert torch.equal(found.keys.cpu(), expected.keys) and torch.equal(found.mask.cpu(), expected.mask)
    recent = torch.randint(0, 1000, (2, 3, 4), generator=torch.Generator().manual_seed(1))
    for mine, theirs in zip(
        one.neighbours(query[:, :2], 5, recent=recent)[:3],
        two.neighbours(query[:, :2].cuda(), 5, recent=recent.cuda())[:3],
        strict=True,
    ):
        assert torch.equal(mine, theirs.cpu())
    slots = expected.hits.slots[0, 0, 0]
    assert two.sources(slots.cuda()) == one.sources(slots) and two.documents == one.documents


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda bank, k, v, i: bank.write(k, v, i[0]), r"token_ids has shape \(5,\)"),
        (lambda bank, k, v, i: bank.write(k[..., :3], v, i), r"keys has shape \(1, 1, 2, 5, 3\)"),
        (lambda bank, k, v, i: bank.write(k, v[:, :, :4], i), r"values has shape"),
        (lambda bank, k, v, i: bank.write(k, v, i, mask=torch.ones(1, 4)), r"mask has shape \(1, 4\); give \(1, 5\)"),
        (lambda bank, k, v, i: bank.write(k, v, i, spans=i), r"spans has shape"),
        (lambda bank, k, v, i: bank.write(k, v, i, documents=[0, 1]), "2 documents for 1 batch rows"),
        (lambda bank, k, v, i: bank.write(k, v, i, documents=[3]), "no document 3 in this bank"),
        (lambda bank, k, v, i: bank.write(k, v, i, rows=[1]), "row 1 is not in this bank; its rows are 0 to 0"),
        (lambda bank, k, v, i: bank.write(k, v, i, rows=[0, 0]), "rows names 2 memory rows for 1 batch rows"),
        (lambda bank, k, v, i: bank.search(k.repeat(2, 1, 1, 1), 1), "2 batch rows came, but the bank has 1"),
        (lambda bank, k, v, i: bank.search(k[:, :1], 1), "heads a multiple of 2"),
        (lambda bank, k, v, i: bank.search(k, 0), "top_k=0"),
        (lambda bank, k, v, i: bank.search(k, 1, layer=1), "layer=1 is not a place among the 1 layers"),
        (lambda bank, k, v, i: bank.num_tokens(2), "row 2 is not in this bank"),
        (lambda bank, k, v, i: bank.add_document("x", row=5), "row 5 is not in this bank"),
        (lambda bank, k, v, i: bank.delete_document(0), "no document 0 in this bank; its ids are none"),
    ],
)
def test_mistakes_are_told_in_one_line(make_bank, call, told):
    bank = make_bank()
    with pytest.raises(BankError, match=told) as error:
        call(bank, *tokens_of(5))
    assert "\n" not in str(error.value) and bank.num_tokens() == 0


def test_config_tells_every_problem_together():
    with pytest.raises(
        ConfigError, match=r"chunk_size=0.*memory_size=-1.*memory_bytes='x'.*index='hnsw'; use one of approximate, auto"
    ):
        BankConfig(chunk_size=0, memory_size=-1, memory_bytes="x", index="hnsw")
    with pytest.raises(ConfigError, match="memory_size=4 is less than chunk_size=8"):
        BankConfig(chunk_size=8, memory_size=4)
    with pytest.raises(ConfigError, match="chunk_size=None"):
        BankConfig(chunk_size=None)
    with pytest.raises(ConfigError, match="unknown bank options colour"):
        BankConfig.from_dict({"colour": 1})
    with pytest.raises(ConfigError, match="num_rows=-1; use 0 or more; head_dim=0"):
        Bank(num_rows=-1, num_kv_heads=1, head_dim=0)
    config = BankConfig(chunk_size=2, memory_size=None, memory_bytes=1000)
    assert BankConfig.from_dict(config.to_dict()) == config
