"""Search in clusters: it finds nearly what the exact search finds, through growth, eviction and deletion."""

from __future__ import annotations

import pytest
import torch

from ltm.bank import Bank, BankConfig, exact_search
from ltm.bank.search import approximate as approximate_module
from ltm.bank.search.approximate import PATIENCE
from ltm.bank.search.clusters import Clusters, num_clusters

HEADS, DIM = 2, 16


def lumpy(count: int, seed: int = 0) -> torch.Tensor:
    """Keys [1, heads, count, dim] in lumps, far from the origin: more like a model's than white noise."""
    random = torch.Generator().manual_seed(seed)
    lumps = 3 * torch.randn(20, HEADS, DIM, generator=torch.Generator().manual_seed(99)) + 1
    owner = torch.randint(20, (count,), generator=random)
    return (lumps[owner] + torch.randn(count, HEADS, DIM, generator=random)).transpose(0, 1)[None]


def asked(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(1, 2 * HEADS, count, DIM, generator=torch.Generator().manual_seed(seed))


def both(**options) -> tuple[Bank, Bank]:
    shape = {"num_rows": 1, "num_kv_heads": HEADS, "head_dim": DIM}
    return tuple(Bank(BankConfig(chunk_size=2, index=name, **options), **shape) for name in ("exact", "approximate"))


def write(banks, count: int, seed: int, name: str | None = None) -> None:
    keys = lumpy(count, seed)
    ids = torch.randint(0, 100, (1, count), generator=torch.Generator().manual_seed(seed))
    for bank in banks:
        bank.write(keys, keys, ids, documents=[None if name is None else bank.add_document(name)])


def recall(exact: Bank, approximate: Bank, top_k: int = 8) -> float:
    queries, shares = asked(20), []
    for token in range(queries.shape[2]):  # one at a time: many at once are searched exactly
        one, two = (bank.search(queries[:, :, token : token + 1], top_k) for bank in (exact, approximate))
        assert two.valid.all() and all(len(set(found)) == top_k for found in two.slots.flatten(0, 2).tolist())
        shares.append((one.slots[..., None] == two.slots[..., None, :]).any(-1).float().mean())
        shared = one.slots == two.slots
        torch.testing.assert_close(one.scores[shared], two.scores[shared], atol=1e-4, rtol=1e-4)
    return float(torch.stack(shares).mean())


def joint_recall(exact: Bank, approximate: Bank) -> float:
    queries = asked(20)[:, :HEADS]
    found = [
        [bank.neighbours(queries[:, :, t : t + 1], 8).hits.slots.flatten().tolist() for t in range(20)]
        for bank in (exact, approximate)
    ]
    return sum(len(set(one) & set(two)) for one, two in zip(*found, strict=True)) / (8 * 20)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr("ltm.bank.search.clusters.PROBES", 12)
    monkeypatch.setattr(approximate_module, "TAIL", 50)


def test_it_grows_evicts_and_deletes_and_still_finds():
    banks = exact, approximate = both(memory_size=6000)
    for seed, count in enumerate((900, 30, 40, 1500, 90, 2500)):
        write(banks, count, seed, name=f"d{seed}")
        assert recall(*banks) > 0.9 and joint_recall(*banks) > 0.9
    (index,) = (row.search_index for row in approximate.rows)
    assert set(index.spaces) == {(0, 0), (0, 1), (0, None)}
    clusters = index.spaces[0, 0]
    assert len(clusters.centroids) > 12 and len(clusters.search(asked(1)[0, 0], 8)[0][0]) == 8
    for bank in banks:
        bank.delete_document(3)
    assert recall(*banks) > 0.9 and joint_recall(*banks) > 0.9
    assert index.spaces[0, 0] is approximate.rows[0].search_index.spaces[0, 0]  # kept, not made anew
    write(banks, 3000, 7)  # evicts the oldest
    assert recall(*banks) > 0.9
    write(banks, 9000, 8)  # evicts all
    assert recall(*banks) > 0.9 and exact.num_chunks() == approximate.num_chunks() == 3000


def test_it_looks_into_a_part_only_and_the_automatic_switch():
    banks = exact, approximate = both(memory_size=None)
    write(banks, 8000, 0)
    recall(*banks)
    clusters = approximate.rows[0].search_index.spaces[0, 0]
    ranking = clusters.means.new_zeros(1, len(clusters.means))
    assert len(clusters.means) == num_clusters(4000) and ranking.shape[1] > 12
    assert len(clusters._positions(torch.arange(12))) < 4000 / 3
    auto = Bank(BankConfig(chunk_size=2, memory_size=None), num_rows=1, num_kv_heads=HEADS, head_dim=DIM)
    write([auto], 8000, 0)
    assert auto.config.index == "auto" and recall(exact, auto) == 1.0 and not auto.rows[0].search_index.spaces
    auto.rows[0].search_index.from_chunks = 4000
    early = num_clusters(4000) // PATIENCE
    for _ in range(early):
        assert torch.equal(exact.search(asked(1), 8).slots, auto.search(asked(1), 8).slots)
    assert not auto.rows[0].search_index.spaces
    auto.search(asked(1), 8)
    assert auto.rows[0].search_index.spaces  # as much as making them costs has been spent on exact searches
    assert 0.9 < recall(exact, auto) <= 1.0 and auto.rows[0].search_index.spaces


def test_many_queries_are_searched_exactly():
    exact, approximate = banks = both()
    write(banks, 2000, 0)
    one, two = (bank.search(asked(64), 8) for bank in banks)
    assert torch.equal(one.slots, two.slots) and not approximate.rows[0].search_index.spaces


def test_more_than_the_clusters_hold_is_searched_exactly():
    banks = both()
    write(banks, 2000, 0)
    one, two = (bank.search(asked(1), 900) for bank in banks)
    assert torch.equal(one.slots.sort(-1).values, two.slots.sort(-1).values)


def test_clusters_made_for_the_queries_beat_clusters_made_for_the_keys():
    """Queries along few directions: clustering must not spend itself on the others."""
    random = torch.Generator().manual_seed(0)
    keys = torch.randn(8000, 32, generator=random)
    queries = torch.randn(200, 32, generator=random) * torch.tensor([4.0] * 4 + [0.2] * 28)
    truth = exact_search(queries[None], keys[None], 10)[1][0]

    def found(sample: torch.Tensor) -> float:
        clusters = Clusters(keys, torch.arange(8000), sample)
        got = [clusters.search(query[None], 10)[1][0].tolist() for query in queries]
        return sum(len(set(one) & set(two)) for one, two in zip(got, truth.tolist(), strict=True)) / 2000

    assert found(queries) > found(torch.eye(32)) + 0.1


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 1.0), (torch.bfloat16, 0.97)])
def test_candidates_are_compared_more_finely_than_whole_scores_can_be(dtype, least):
    """Keys with much in common, more candidates than are selected from at once; also after adding and letting go."""
    keys = (lumpy(6000)[0, 0] + 30).to(dtype)
    queries = (torch.randn(8, DIM, generator=torch.Generator().manual_seed(5)) + 2).to(dtype)
    clusters = Clusters(keys[:4000], torch.arange(4000), torch.eye(DIM))
    clusters.add(keys[4000:], torch.arange(4000, 6000), first=0)
    clusters.keep(torch.arange(1000, 6000))
    clusters.probes = len(clusters.anchors)
    truth = (queries.double() @ keys[1000:].double().T).topk(16).indices
    found = clusters.search(queries, 16)[1]
    coarse = exact_search(queries[None], keys[None, 1000:], 16)[1][0]
    share, coarse_share = ((one[..., None] == truth[:, None]).any(-1).float().mean() for one in (found, coarse))
    assert share >= least and (dtype == torch.float32 or coarse_share < 0.9)
