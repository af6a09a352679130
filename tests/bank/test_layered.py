"""Two banks as one past find what one bank that holds everything finds."""

from __future__ import annotations

import pytest
import torch
from bank.model_bank import tokens_of
from torch import Tensor

from ltm.bank import Bank, BankConfig, BankPart, EventCut, Hits, LayeredBank

ROWS = [2, 0]
"""Of the bank that was read to, for each row of the batch; what left the window has the batch's own."""
SHAPES = {"num_kv_heads": 2, "head_dim": 8, "layers": (3, 7), "dtype": torch.float64}


def make(num_rows: int, **settings) -> Bank:
    return Bank(BankConfig(**{"chunk_size": 4, "memory_size": None, **settings}), num_rows=num_rows, **SHAPES)


def write(bank: Bank, count: int, seed: int, row: int, document: int | None) -> None:
    keys, values, ids = tokens_of(count, batch=2, seed=seed)
    bank.write(keys[:, None].double(), values[:, None].double(), ids[:1] % 7, rows=[row], documents=[document])


def three(left: tuple[int, int] = (21, 30)) -> tuple[Bank, Bank, Bank]:
    """What was read, what left the window (so many tokens of each row of the batch), and one with both."""
    read, spilled, whole = make(3), make(2), make(2)
    documents = [bank.add_document("read") for bank in (read, whole)]
    for row, own in enumerate(ROWS):
        write(read, 37 + row, row, own, documents[0])
        write(whole, 37 + row, row, row, documents[1])
        if left[row]:
            write(spilled, left[row], 9 + row, row, None)
            write(whole, left[row], 9 + row, row, None)
    return read, spilled, whole


def layered(read: Bank, spilled: Bank) -> LayeredBank:
    return LayeredBank([BankPart(read, torch.tensor(ROWS)), BankPart(spilled, torch.arange(2))])


def queries(heads: int, tokens: int = 5) -> Tensor:
    return torch.randn(2, heads, tokens, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def found(hits: Hits, before: list[int]) -> dict[tuple[int, ...], dict[int, float]]:
    """The scores by slot of all that is valid, for each query; before: slots of each row before those of a part."""
    scores: dict[tuple[int, ...], dict[int, float]] = {}
    for place in hits.valid.nonzero().tolist():
        at = tuple(place)
        scores.setdefault(at[:3], {})[int(hits.slots[at]) + before[at[0]]] = round(float(hits.scores[at]), 9)
    return scores


def together(past: LayeredBank, hits: Hits, read: Bank) -> dict[tuple[int, ...], dict[int, float]]:
    befores = [[0, 0], [read.num_chunks(row) for row in ROWS]]
    merged: dict[tuple[int, ...], dict[int, float]] = {}
    for (_, own), before in zip(past.by_part(hits), befores, strict=True):
        for query, scores in found(own, before).items():
            merged.setdefault(query, {}).update(scores)
    return merged


@pytest.mark.parametrize("top_k", [1, 4, 40])  # 40: more than there are
@pytest.mark.parametrize("layer", [0, 1])
def test_the_best_over_all_parts_are_found(top_k, layer):
    read, spilled, whole = three()
    past, asked = layered(read, spilled), queries(4)
    hits = past.search(asked, top_k, layer)
    assert hits.slots.shape[-1] == 2 * top_k
    expected = found(whole.search(asked, top_k, layer=layer), [0, 0])
    assert together(past, hits, read) == expected and {len(scores) for scores in expected.values()} != {0}


def test_from_each_part_some_are_found():
    read, spilled, _ = three()
    past = layered(read, spilled)
    counts = [int(own.valid.sum()) for _, own in past.by_part(past.search(queries(4), 4))]
    assert min(counts) > 0 and sum(counts) == 2 * 4 * 5 * 4  # batch, heads, tokens, top_k


def test_entries_of_what_is_found_are_those_of_one_bank():
    read, spilled, whole = three()
    past, asked = layered(read, spilled), queries(4)
    keys, values, mask = past.gather(past.search(asked, 4, layer=1), layer=1)
    one = whole.retrieve(asked, 4, layer=1)
    for query in torch.cartesian_prod(*(torch.arange(size) for size in mask.shape[:3])).tolist():
        at = tuple(query)
        mine = torch.cat((keys[at], values[at]), dim=-1)[mask[at]]
        theirs = torch.cat((one.keys[at], one.values[at]), dim=-1)[one.mask[at]]
        assert len(mine) and torch.equal(mine[mine[:, 0].argsort()], theirs[theirs[:, 0].argsort()])


def test_neighbours_are_those_of_one_bank():
    read, spilled, whole = three()
    past, asked = layered(read, spilled), queries(2)
    recent = torch.randint(0, 7, (2, 5, 3), generator=torch.Generator().manual_seed(1))
    mine = past.neighbours(asked, 4, recent)
    one = whole.neighbours(asked, 4, recent=recent)
    assert together(past, mine.hits, read) == found(one.hits, [0, 0])
    assert bool((one.next_ids >= 0).any()) and bool((one.runs > 0).any())
    for row, token in torch.cartesian_prod(torch.arange(2), torch.arange(5)).tolist():
        followed = []
        for near in (mine, one):
            known = near.next_ids[row, token] >= 0
            firsts = near.keys[row, 0, token, known, 0].tolist()
            ids, runs = near.next_ids[row, token, known].tolist(), near.runs[row, token, known].tolist()
            followed.append(sorted(zip(firsts, ids, runs, strict=True)))
            assert not near.runs[row, token, ~known].any()
        assert followed[0] == followed[1] and followed[0]


def test_a_row_of_which_nothing_has_left_the_window():
    read, spilled, whole = three(left=(0, 30))
    past, asked = layered(read, spilled), queries(4)
    assert together(past, past.search(asked, 4), read) == found(whole.search(asked, 4), [0, 0])
    assert [past.num_tokens(row) for row in range(2)] == [whole.num_tokens(row) for row in range(2)] == [37, 68]


def test_one_part_is_its_bank():
    read, spilled, _ = three()
    past, asked = LayeredBank([BankPart(read, torch.tensor(ROWS)), BankPart(make(2), torch.arange(2))]), queries(2)
    assert len(past.parts) == 1
    hits = read.search(asked, 4, rows=ROWS)
    for mine, theirs in (
        (past.search(asked, 4), hits),
        (past.gather(hits), read.gather(hits, rows=ROWS)),
        (past.neighbours(asked, 4)[:3], read.neighbours(asked, 4, ROWS)[:3]),
    ):
        assert all(torch.equal(one, other) for one, other in zip(mine, theirs, strict=True))
    assert not LayeredBank([BankPart(make(0), torch.arange(2)), BankPart(make(2), torch.arange(2))])


def test_its_version_changes_with_any_part():
    read, spilled, _ = three()
    past = layered(read, spilled)
    seen = [past.version]
    for bank in (read, spilled):
        write(bank, 3, 0, 0, None)
        seen.append(past.version)
    assert len(set(seen)) == 3 and past.version == seen[-1] == layered(read, spilled).version
    assert layered(read.select([0, 0, 2]), spilled).version != seen[-1]


# tokens and events


def event_banks(left: tuple[int, int] = (12, 25)) -> tuple[Bank, Bank, Bank]:
    read, spilled, whole = (make(rows, chunk_size=1, event_heads=2) for rows in (3, 2, 2))
    for row, own in enumerate(ROWS):
        for bank, number, counts in ((read, own, [30]), (whole, row, [30, left[row]]), (spilled, row, [left[row]])):
            for count in filter(None, counts):
                keys, values, ids = tokens_of(count, batch=2, seed=count)
                keys, values = keys[:, None].double(), values[:, None].double()
                sizes = torch.tensor([5, count - 5])
                found_by = torch.randn(
                    2, 2, 16, generator=torch.Generator().manual_seed(count + row), dtype=torch.float64
                )
                bank.write(keys, values, ids[:1], rows=[number], events=[EventCut(sizes, found_by)])
    return read, spilled, whole


@pytest.mark.parametrize("left", [(12, 25), (0, 25)])
def test_tokens_and_events_count_over_all_parts(left):
    read, spilled, whole = event_banks(left)
    past = layered(read, spilled)
    for row in range(2):
        tokens = whole.num_tokens(row)
        assert past.num_tokens(row) == tokens == 30 + left[row]
        for mine, theirs in zip(past.event_table(row), whole.event_table(row), strict=True):
            assert torch.equal(mine, theirs)
        asked = queries(4)[row].transpose(0, 1)
        torch.testing.assert_close(past.score_events(row, asked, 1), whole.score_events(row, asked, 1))
        some = torch.tensor([0, 3, 29]), torch.tensor([tokens - 1]), torch.arange(tokens), torch.arange(0)
        for indices in (*some, slice(0, 4), slice(28, tokens), slice(tokens - 2, tokens), slice(3, 3)):
            mine, theirs = past.entries(row, indices, 1), whole.entries(row, indices, 1)
            assert all(torch.equal(one, other) for one, other in zip(mine, theirs, strict=True))
            assert torch.equal(past.entry_keys(row, indices, 1), theirs[0])
