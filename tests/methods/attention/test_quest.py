"""Quest against its naive form, and against full attention where everything fits."""

from __future__ import annotations

import pytest
import torch
from reference.quest import NaiveQuest, naive_page_score, naive_pages, naive_seen

from ltm.attention import LocalView
from ltm.bank import Bank
from ltm.errors import BankMismatchError, ConfigError, LtmError
from ltm.methods import create_method
from ltm.methods.attention.quest import QuestConfig
from ltm.methods.attention.quest.pages import attend_pages, choose_pages, page_mask, score_pages
from ltm.methods.attention.quest.reader import PageReader
from ltm.streams import Past
from ltm.streams.pages import Columns, PageBounds, PagedCache, PagedLayer

EXACT = {"atol": 1e-12, "rtol": 1e-9}
ROUNDED = {"atol": 1e-5, "rtol": 1e-4}
"""transformers computes norms and rotary angles in float32 whatever the model's dtype."""


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tokens(rows, length, seed=0):
    return torch.randint(5, 250, (rows, length), generator=torch.Generator().manual_seed(seed))


def padded(keys, mask, page_size, pieces=()):
    """A layer whose valid columns hold `keys` [batch, kv_heads, columns, head_dim], appended in pieces."""
    layer = PagedLayer(page_size)
    for start, end in zip((0, *pieces), (*pieces, keys.shape[2]), strict=True):
        layer.update(keys[:, :, start:end], keys[:, :, start:end] + 1)
        layer.pages.extend(layer.keys, Columns(mask[:, :end]))
    return layer


MASKS = {
    "unpadded": [[1] * 21, [1] * 21],
    "left": [[1] * 21, [0] * 6 + [1] * 15],
    "between": [[1] * 8 + [0] * 3 + [1] * 10, [0] * 2 + [1] * 6 + [0] * 5 + [1] * 8],
}


@pytest.fixture(params=sorted(MASKS))
def mask(request):
    return torch.tensor(MASKS[request.param], dtype=torch.bool)


@pytest.mark.parametrize("pieces", [(), (1, 2, 9), tuple(range(1, 21))])
def test_bounds_are_the_extremes_of_each_pages_keys_however_they_came(mask, pieces):
    keys = random(2, 3, 21, 4)
    bounds = padded(keys, mask, 5, pieces).pages.bounds
    for row in range(2):
        own = keys[row][:, mask[row]]
        for page in range(-(-own.shape[1] // 5)):
            of_page = own[:, page * 5 : page * 5 + 5]
            assert torch.equal(bounds[row, :, page, :4], of_page.amax(dim=1))
            assert torch.equal(bounds[row, :, page, 4:], -of_page.amin(dim=1))


def test_scores_are_the_papers_bound_and_no_key_of_a_page_exceeds_it():
    query, keys = random(1, 4, 3, 8, seed=1), random(1, 2, 20, 8)
    bounds = padded(keys, torch.ones(1, 20, dtype=torch.bool), 6).pages.bounds[:, :, :4]
    scores = score_pages(query, bounds)
    for head in range(4):
        for token in range(3):
            for page in range(4):
                of_page = keys[0, head // 2, page * 6 : page * 6 + 6]
                expected = naive_page_score(query[0, head, token], of_page)
                assert float(scores[0, head, token, page]) == pytest.approx(expected, rel=1e-12)
                assert float((of_page @ query[0, head, token]).max()) <= expected + 1e-12


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("current", ["kept", "ranked"])
@pytest.mark.parametrize("length", [21, 20, 16])
def test_one_token_reads_what_the_naive_form_reads(mask, current, share, length):
    """Pages and output of both paths of the fast form, at lengths that fill the last page and that do not."""
    config = QuestConfig(page_size=2, token_budget=6, dense_layers=0, current_page=current, share_pages=share)
    mask = mask[:, :length]
    keys, query = random(2, 2, length, 8), random(2, 6, 1, 8, seed=1) * 3
    layer, columns = padded(keys, mask, 2), Columns(mask)
    cache = PagedCache(2)
    cache.caches[0].layers = [layer]
    cache.begin(2, mask.device)
    local = LocalView(torch.nn.Identity(), query, layer.keys, layer.values, mask[:, None, None], 0.4, 0.0, None, {})
    reader = PageReader(config, [0], cache, columns, 1)
    fetched = reader.attend_local(0, local)
    seen = reader.mask(local, layer, local.explicit_mask(), slice(None))
    for row in range(2):
        own_keys = keys[row][:, mask[row]]
        place = own_keys.shape[1] - 1
        queries = torch.zeros(6, place + 1, 8, dtype=torch.float64)
        queries[:, -1] = query[row, :, 0]
        for head in range(6):
            expected = naive_seen(queries, own_keys, head, place, config)
            assert len(expected) < place + 1  # something is left out
            assert torch.equal(columns.places[row][seen[row, head, 0]], expected)
            chosen = own_keys[head // 3, expected]
            weights = torch.softmax(chosen @ query[row, head, 0] * 0.4, dim=0)
            torch.testing.assert_close(fetched[row, head, 0], weights @ (chosen + 1), **EXACT)


def test_a_page_that_is_not_there_is_not_read_and_later_pages_are_not_chosen():
    scores = torch.arange(6.0).expand(1, 1, 2, 6)
    pages, there = choose_pages(scores, torch.tensor([[1, 4]]), 3, keep_own=False)
    assert [sorted(p[t].tolist()) for p, t in zip(pages[0, 0], there[0, 0], strict=True)] == [[0, 1], [2, 3, 4]]
    kept, _ = choose_pages(-scores, torch.tensor([[1, 4]]), 3, keep_own=True)
    assert sorted(kept[0, 0, 1].tolist()) == [0, 1, 4]
    columns = Columns(torch.ones(1, 23, dtype=torch.bool))
    mask = page_mask(pages, there, columns, 4)
    assert mask[0, 0, 0].nonzero().flatten().tolist() == list(range(8))
    assert mask[0, 0, 1].nonzero().flatten().tolist() == list(range(8, 20))


@pytest.mark.parametrize("current", ["kept", "ranked"])
@pytest.mark.parametrize("length", [1, 30, 33])
def test_logits_equal_the_naive_form(tiny_backbone, current, length):
    backbone = tiny_backbone("tiny-llama", "float64")
    method = create_method("quest", backbone, page_size=4, token_budget=12, dense_layers=2, current_page=current)
    read, ids = tokens(1, length), tokens(1, 9, seed=1)
    method.read(read)
    expected = NaiveQuest(method).logits(read[0], ids[0])
    with torch.no_grad():
        torch.testing.assert_close(method(ids).logits[0], expected, **ROUNDED)
        cache = method.new_cache()
        steps = [method(ids[:, t : t + 1], cache=cache, use_cache=True).logits[0] for t in range(9)]
    torch.testing.assert_close(torch.cat(steps), expected, **ROUNDED)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma3", "tiny-gpt2"])
def test_token_by_token_with_padding_equals_scoring_at_once(tiny_backbone, name, share):
    """The copied pages of a step give what the mask over the whole cache gives, with grouped heads and sliding layers
    and with rows of different lengths."""
    backbone = tiny_backbone(name, "float64")
    options = {"page_size": 4, "token_budget": 12, "dense_layers": 1, "share_pages": share, "current_page": "ranked"}
    method = create_method("quest", backbone, **options)
    mask = torch.ones(2, 41, dtype=torch.bool)
    mask[1, :14] = False
    method.read(tokens(2, 41), mask)
    ids = tokens(2, 10, seed=1)
    cache = method.new_cache()
    with torch.no_grad():
        whole = method(ids).logits
        steps = [method(ids[:, t : t + 1], cache=cache, use_cache=True).logits for t in range(10)]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, **ROUNDED)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma3"])
def test_reading_on_with_padding_equals_reading_each_row_alone(tiny_backbone, name):
    """Sliding layers have padded rows encoded anew: what was read stays dense then, what was scored sparse."""
    options = {"page_size": 4, "token_budget": 12, "dense_layers": 1}
    method = create_method("quest", tiny_backbone(name, "float64"), **options)
    alone = create_method("quest", tiny_backbone(name, "float64"), **options)
    first, scored, second, ids = tokens(2, 20), tokens(2, 11, seed=1), tokens(2, 15, seed=2), tokens(2, 5, seed=3)
    mask = torch.ones(2, 15, dtype=torch.bool)
    mask[1, :9] = False
    with torch.no_grad():
        for each, rows, start in ((method, slice(0, 2), 0), (alone, slice(1, 2), 9)):
            each.read(first[rows])
            number = len(first[rows])
            every = Past(scored[rows], torch.ones(number, 11, dtype=torch.bool), torch.arange(number))
            each.score_and_read(every, each.memory)
            each.read(second[rows, start:], mask[rows, start:])
        batch, single = method(ids).logits, alone(ids[1:]).logits
    torch.testing.assert_close(batch[1:], single, **ROUNDED)


def test_what_fits_the_budget_is_full_attention_bit_for_bit(tiny_backbone):
    backbone = tiny_backbone("tiny-llama")
    full, quest = create_method("full", backbone), create_method("quest", backbone, token_budget=48)
    outputs = []
    for method in (full, quest):
        method.read(tokens(2, 30))
        with torch.no_grad():
            outputs.append(method(tokens(2, 18, seed=1)).logits)
    assert torch.equal(*outputs)
    quest.read(tokens(2, 1, seed=2))
    full.read(tokens(2, 1, seed=2))
    with torch.no_grad():
        over = quest(tokens(2, 18, seed=1)).logits, full(tokens(2, 18, seed=1)).logits
    assert torch.allclose(over[0][:, 0], over[1][:, 0], atol=1e-5)  # 32 tokens: two pages of 16
    assert float((over[0][:, -1] - over[1][:, -1]).abs().max()) > 1e-4  # 49 tokens: four pages, three are read


def test_layers_that_are_dense_stay_dense(tiny_backbone):
    backbone = tiny_backbone("tiny-llama")
    full = create_method("full", backbone)
    quest = create_method("quest", backbone, page_size=4, token_budget=12, dense_layers=6)
    ids = tokens(1, 60)
    with torch.no_grad():
        torch.testing.assert_close(quest(ids).logits, full(ids).logits)


def test_a_step_copies_no_token_that_is_held():
    layer = PagedLayer(16)
    layer.update(random(1, 1, 20, 4), random(1, 1, 20, 4))
    before = layer.key_buffer.data_ptr()
    for _ in range(200):
        layer.update(random(1, 1, 1, 4), random(1, 1, 1, 4))
    assert layer.key_buffer.data_ptr() == before and layer.get_seq_length() == 220
    assert layer.key_buffer.shape[2] % 16 == 0


def test_beyond_the_backbones_positions_it_says_so(tiny_backbone):
    backbone = tiny_backbone("tiny-llama")
    method = create_method("quest", backbone)
    with pytest.raises(LtmError, match="600 tokens are more than the backbone's 512 positions.*extrapolate=True"):
        method.read(tokens(1, 600))
    method = create_method("quest", backbone, extrapolate=True, token_budget=64)
    method.read(tokens(1, 600))
    assert method.max_stream_tokens is None and method(tokens(1, 3)).logits.shape == (1, 3, 259)
    learned = create_method("quest", tiny_backbone("tiny-gpt2"), extrapolate=True)
    with pytest.raises(LtmError, match="positions(?!.*extrapolate)"):
        learned.read(tokens(1, 600))


def test_config_names_every_problem():
    with pytest.raises(ConfigError, match="(?s)page_size=0.*token_budget=-1.*current_page='last'"):
        QuestConfig(page_size=0, token_budget=-1, current_page="last")
    assert QuestConfig(page_size=16, token_budget=20).num_pages == 3


def test_naive_pages_by_hand():
    """One channel: page 0 bounds the query's product by 2, page 1 by 9, page 2 (own) by 1."""
    keys = torch.tensor([[-2.0], [0], [-9], [4], [-1]])
    config = QuestConfig(page_size=2, token_budget=1)
    assert naive_page_score(torch.tensor([-1.0]), keys[2:4]) == 9
    assert naive_pages(torch.tensor([[-1.0]]), keys, config) == [0, 1, 2]
    bounds = PageBounds(2)
    bounds.extend(keys[None, None], Columns(torch.ones(1, 5, dtype=torch.bool)))
    assert score_pages(torch.tensor([[[[-1.0]]]]), bounds.bounds[:, :, :3]).flatten().tolist() == [2, 9, 1]


def test_bytes_of_a_token_are_those_of_the_tensors(tiny_backbone):
    """Keys and values of all layers, bounds of those that choose; room to grow left out."""
    method = create_method("quest", tiny_backbone("tiny-llama"), page_size=4, token_budget=12, dense_layers=2)
    method.read(tokens(1, 40))
    method(tokens(1, 1))
    past = method.memory.past
    layers = [past.layer(index) for index in range(6)]
    kept = sum(states.numel() * states.element_size() for layer in layers for states in layer.held)
    bounds = [layer.pages.bounds[:, :, :10] for layer in layers if layer.pages.bounds is not None]
    kept += sum(bound.numel() * bound.element_size() for bound in bounds)
    assert len(bounds) == 4 and kept == 40 * method.stream_bytes_per_token
    assert kept < past.nbytes < 12 * kept


# the past in a bank


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma3", "tiny-gpt-neox", "tiny-opt"])
def test_a_saved_bank_goes_on_as_before(tiny_backbone, name, tmp_path):
    backbone = tiny_backbone(name, "float64")
    method = create_method("quest", backbone, page_size=4, token_budget=12)
    method.use_bank(method.new_bank(2))
    mask = torch.ones(2, 30, dtype=torch.bool)
    mask[0, :7] = False
    method.read(tokens(2, 30), mask)
    method.read(tokens(2, 9, seed=2))
    ids = tokens(2, 6, seed=1)
    expected = method(ids).logits
    method.bank.save(tmp_path / "bank")
    again = create_method("quest", backbone, page_size=4, token_budget=12)
    again.use_bank(Bank.load(tmp_path / "bank", fingerprint=backbone.fingerprint))
    assert [again.bank.num_tokens(row) for row in range(2)] == [32, 39]
    torch.testing.assert_close(again(ids).logits, expected, **ROUNDED)
    for each in (method, again):
        each.read(tokens(2, 5, seed=3))
    torch.testing.assert_close(again(ids).logits, method(ids).logits, **ROUNDED)
    again.reset(rows=[1])
    assert [again.bank.num_tokens(row) for row in range(2)] == [37, 0]


def test_a_deleted_document_is_gone_from_the_past(tiny_backbone):
    backbone = tiny_backbone("tiny-llama", "float64")
    method = create_method("quest", backbone, page_size=4, token_budget=12)
    method.use_bank(method.new_bank(1))
    numbers = [method.bank.add_document(name) for name in ("first", "second")]
    for number in numbers:
        method.read(tokens(1, 18, seed=number), documents=[number])
    alone = create_method("quest", backbone, page_size=4, token_budget=12)
    alone.read(tokens(1, 18, seed=0))
    ids = tokens(1, 5, seed=9)
    assert float((method(ids).logits - alone(ids).logits).abs().max()) > 1e-3
    method.bank.delete_document(numbers[1])
    torch.testing.assert_close(method(ids).logits, alone(ids).logits, **ROUNDED)
    method.bank.delete_document(numbers[0])
    torch.testing.assert_close(method(ids).logits, create_method("quest", backbone)(ids).logits, **ROUNDED)


def test_another_methods_bank_is_refused(tiny_backbone):
    backbone = tiny_backbone("tiny-llama")
    bank = Bank(num_rows=1, num_kv_heads=2, head_dim=16, layers=(3,))
    with pytest.raises(BankMismatchError, match="memory: the bank lets old tokens go.*layers: bank 3, model 0 to 5"):
        create_method("quest", backbone).use_bank(bank)


def test_a_trace_names_the_chunks_that_were_read(tiny_backbone):
    """Weights add up to what is not spent on the present and the first page, and a chunk of a page that no head chose
    has none."""
    backbone = tiny_backbone("tiny-llama", "float64")
    method = create_method("quest", backbone, page_size=4, token_budget=12, dense_layers=5)
    method.use_bank(method.new_bank(1))
    method.read(tokens(1, 41))
    with torch.no_grad():
        plain = method(tokens(1, 1, seed=1)).logits
        with method.trace() as trace:
            torch.testing.assert_close(method(tokens(1, 1, seed=1)).logits, plain, **ROUNDED)
    (used,) = trace.tokens(0)
    assert 0 < sum(chunk.weight for chunk in used) < 1
    assert {chunk.slot for chunk in used} < set(range(1, 11))
    assert all(chunk.weight > 0 for chunk in used)


def test_tiny_attend_pages_with_softcap():
    """Capped logits (Gemma 2) go another way; it gives the naive numbers too."""
    keys, query = random(1, 1, 12, 4), random(1, 2, 1, 4, seed=1) * 3
    mask = torch.ones(1, 12, dtype=torch.bool)
    layer, columns = padded(keys, mask, 4), Columns(mask)
    local = LocalView(torch.nn.Identity(), query, layer.keys, layer.values, None, 0.5, 0.0, 2.0, {})
    pages, there = torch.tensor([[[[0, 2]], [[1, 2]]]]), torch.ones(1, 2, 1, 2, dtype=torch.bool)
    found = attend_pages(local, layer, pages, there, columns, torch.tensor([[10]]))
    for head, chosen in enumerate(([0, 1, 2, 3, 8, 9, 10], [4, 5, 6, 7, 8, 9, 10])):
        logits = 2 * torch.tanh(keys[0, 0, chosen] @ query[0, head, 0] * 0.5 / 2)
        expected = torch.softmax(logits, dim=0) @ (keys[0, 0, chosen] + 1)
        torch.testing.assert_close(found[0, head, 0], expected, **EXACT)
