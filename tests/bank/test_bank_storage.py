"""Storage in floats, 8 and 4 bits: a slow reference, error bounds, search over codes, and the same on disk."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bank.model_bank import tokens_of
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.search import naive_search

from ltm.bank import Bank, BankConfig
from ltm.bank.disk import plain_reader
from ltm.bank.hadamard import hadamard
from ltm.bank.storage import BITS, STORAGES, ChunkCodec
from ltm.errors import BankError, ConfigError

SEARCH = (None, "float32", "bfloat16", "int8", "int4", "derived")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def naive_codes(vectors: torch.Tensor, bits: int) -> tuple[list[list[int]], float]:
    """Codes and scale of what one chunk has in one head, [rows, head_dim], number by number in float64."""
    rotated = [
        [sum(x * h for x, h in zip(row, column, strict=True)) for column in naive_hadamard(vectors.shape[1])]
        for row in vectors.double().tolist()
    ]
    offset = (2**bits - 1) / 2
    largest = max(abs(x) for row in rotated for x in row)
    scale = float(torch.tensor(largest / offset * (1 + 2**-10) + 2**-24 if largest else 0.0).half())
    return [[round(x / scale + offset) if scale else round(offset) for x in row] for row in rotated], scale


def naive_hadamard(size: int) -> list[list[float]]:
    n = math.gcd(size, 2**30)
    return [
        [(-1) ** (bin(i % n & j % n).count("1")) / math.sqrt(n) if i // n == j // n else 0.0 for j in range(size)]
        for i in range(size)
    ]


@pytest.mark.parametrize("size", [1, 2, 6, 8, 64, 80])
def test_the_rotation_is_orthonormal_and_its_own_inverse(size):
    matrix = hadamard(size)
    assert torch.equal(matrix, matrix.T) and torch.allclose(matrix @ matrix, torch.eye(size), atol=1e-6)
    assert torch.allclose(matrix.double(), torch.tensor(naive_hadamard(size), dtype=torch.float64), atol=1e-7)


@pytest.mark.parametrize("storage", list(BITS))
@pytest.mark.parametrize("shape", [(1, 2), (3, 8), (2, 6)])
def test_codes_are_those_of_the_slow_reference(storage, shape):
    torch.manual_seed(0)
    tensor = torch.randn(1, 2, 5, *shape) * torch.tensor([0.01, 1.0, 300.0, 0.0, 5.0]).view(1, 1, 5, 1, 1)
    codec = ChunkCodec(storage, shape)
    parts = codec.encode("keys", tensor, None)
    rotated = codec.decode(parts["keys"], parts["keys.scale"])
    for head, chunk in itertools.product(range(2), range(5)):
        codes, scale = naive_codes(tensor[0, head, chunk], codec.bits)
        assert float(parts["keys.scale"][0, head, chunk]) == scale
        found = rotated[0, head, chunk].double() / (scale or 1.0) + codec.offset * bool(scale)
        expected = torch.tensor(codes, dtype=torch.float64) * bool(scale)
        assert (found - expected).abs().max() < 1e-3 or (found - expected).abs().round().max() <= 1  # a tie may go up


@settings(max_examples=60, deadline=None)
@given(
    storage=st.sampled_from(list(BITS)),
    chunk_size=st.integers(1, 5),
    head_dim=st.sampled_from([2, 6, 8, 64]),
    magnitude=st.floats(-6, 3.5),
    outlier=st.booleans(),
    centred=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_no_number_is_more_than_half_a_step_off(storage, chunk_size, head_dim, magnitude, outlier, centred, seed):
    random = torch.Generator().manual_seed(seed)
    tensor = torch.randn(1, 2, 3, chunk_size, head_dim, generator=random) * 10**magnitude
    if outlier:
        tensor[..., 0] *= 30
    center = torch.randn(1, 2, head_dim, generator=random) * 10**magnitude if centred else None
    codec = ChunkCodec(storage, (chunk_size, head_dim))
    parts = codec.encode("keys", tensor, center)
    scales = parts["keys.scale"].float()
    beside = None if center is None else center[:, :, None, None]
    error = (codec.restore(codec.decode(parts["keys"], parts["keys.scale"]), beside) - tensor).double()
    moved = (tensor if center is None else tensor - beside).double()
    rotation = hadamard(head_dim).double()
    allowed = scales.double() / 2 + 1e-5 * moved.abs().amax((3, 4)) + 1e-5 * tensor.abs().amax()
    assert bool(((error @ rotation).abs().amax((3, 4)) <= allowed).all())
    largest = (moved @ rotation).abs().amax((3, 4))
    assert bool((scales <= largest / codec.offset * (1 + 2**-8) + 2**-22).all())  # and a step is no wider than need be


def test_numbers_that_no_scale_holds_are_refused(make_bank):
    bank = make_bank()
    assert bank.layout.codecs["keys"].bits is None
    keys, values, ids = tokens_of(4)
    coded = Bank(BankConfig(value_storage="int4"), num_rows=1, num_kv_heads=2, head_dim=8)
    with pytest.raises(BankError, match="values hold numbers that int4 cannot store"):
        coded.write(keys, values * float("inf"), ids)
    assert coded.num_tokens() == 0


def new_bank(key_storage=None, value_storage=None, search_storage=None, *, center=True, dtype=torch.float32, **more):
    config = BankConfig(
        **{"chunk_size": 3, "memory_size": 40, **more},
        key_storage=key_storage,
        value_storage=value_storage,
        search_storage=search_storage,
    )
    key_center = torch.arange(2 * 2 * 8).view(2, 2, 8) / 10 if center else None
    return Bank(config, num_rows=2, num_kv_heads=2, head_dim=8, layers=(4, 7), dtype=dtype, key_center=key_center)


def filled(bank: Bank) -> Bank:
    """Writes of awkward lengths to two rows, evictions among them, keys with an offset and an outlier."""
    for seed, (count, row) in enumerate([(1, 0), (7, 0), (20, 0), (23, 0), (5, 1)]):
        keys, values, ids = tokens_of(count, batch=2, seed=seed)
        document = bank.add_document(f"text {seed}", row=row, text=f"words {seed}")
        spans = torch.stack((torch.arange(count), torch.arange(count) + 1), dim=1)[None]
        offset = torch.tensor([3.0, -8.0] + [0.5] * 6)
        together = torch.stack((keys[:1], keys[1:])) + offset, torch.stack((values[:1], values[1:]))
        bank.write(*together, ids[:1], rows=[row], documents=[document], spans=spans)
    return bank


def everything(bank: Bank, row: int, layer: int):
    """All keys, values and mask of a row in order, [heads, tokens, ...], through gather."""
    number = bank.num_chunks(row)
    found = bank.search(torch.zeros(1, 2, 1, 8), number, rows=[row], layer=layer)
    hits = found._replace(slots=found.slots.sort(dim=-1).values)
    keys, values, mask = bank.gather(hits, rows=[row], layer=layer)
    return keys[0, :, 0], values[0, :, 0], mask[0, :, 0]


@pytest.mark.parametrize("storage", STORAGES)
def test_what_is_fetched_is_within_the_bound_of_what_was_written(storage):
    exact, bank = filled(new_bank()), filled(new_bank(storage, storage))
    for row, layer in itertools.product(range(2), range(2)):
        keys, values, mask = everything(exact, row, layer)
        for name, whole, stored in zip(
            ("keys", "values"), (keys, values), everything(bank, row, layer)[:2], strict=True
        ):
            error = (whole - stored)[mask].norm(dim=-1)
            size = whole[mask].norm(dim=-1)
            if storage in BITS:
                steps = bank.rows[row].ring.ordered(f"{name}.scale")[layer].float()  # [heads, chunks]
                bound = steps.repeat_interleave(3, dim=1)[mask] / 2 * 8**0.5
                assert bool((error <= bound * 1.001).all()) and float((error / size).mean()) > 1e-4  # codes it is
            else:
                relative = {"float32": 0.0, "float16": 2**-11, "bfloat16": 2**-8}[storage]
                assert bool((error <= size * relative).all())
    assert not torch.equal(*(one.retrieve(torch.randn(1, 2, 1, 8), 3, rows=[0]).keys for one in (exact, exact)))


@pytest.mark.parametrize("search_storage", SEARCH)
@pytest.mark.parametrize("key_storage", [None, "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("center", [True, False])
def test_search_over_any_storage_is_exact_over_what_is_stored(
    key_storage, search_storage, center, monkeypatch, tmp_path
):
    monkeypatch.setattr("ltm.bank.search.blockwise.BLOCK_CHUNKS", 4)  # several blocks
    bank = filled(new_bank(key_storage, None, search_storage, center=center))
    bank.save(tmp_path / "a.bank")
    stored = plain_reader.read_bank(tmp_path / "a.bank").rows
    queries = torch.randn(1, 4, 5, 8)  # two query heads for each kv head
    for row, layer in itertools.product(range(2), range(2)):
        keys = torch.from_numpy(stored[row].search_keys[layer].copy())
        top_k = 6
        scores, _ = naive_search(queries[0], keys, top_k)
        found = bank.search(queries, top_k, rows=[row], layer=layer)
        count = scores.shape[2]
        tolerance = 5e-5 if search_storage != "bfloat16" else 0.05  # products are in bfloat16 then
        assert torch.allclose(found.scores[0, :, :, :count].double(), scores, atol=tolerance * 10, rtol=tolerance)
        joint = bank.neighbours(queries[:, :2], top_k, rows=[row], layer=layer)
        sums = torch.stack([queries[0, head].double() @ keys[head].double().T for head in range(2)]).sum(0)
        best = sums.topk(count).values.sort(dim=-1).values
        assert torch.allclose(
            joint.hits.scores[0, 0, :, :count].double().sort(dim=-1).values, best, atol=tolerance * 20
        )


def test_derived_search_keys_of_floats_are_those_that_would_be_stored():
    stored, derived = (
        filled(new_bank(dtype=torch.bfloat16)),
        filled(new_bank(None, None, "derived", dtype=torch.bfloat16)),
    )
    queries = torch.randn(2, 4, 3, 8)
    one, other = (bank.retrieve(queries, 4) for bank in (stored, derived))
    assert torch.equal(one.hits.slots, other.hits.slots) and torch.equal(one.keys[one.mask], other.keys[other.mask])
    saved = stored.layout.bytes_per_chunk - derived.layout.bytes_per_chunk
    assert saved == 2 * 2 * 8 * 2  # layers, heads, head_dim, bytes


@pytest.mark.parametrize("search_storage", SEARCH)
@pytest.mark.parametrize("storage", [None, *STORAGES])
def test_the_same_in_memory_on_disk_and_for_the_plain_reader(storage, search_storage, tmp_path, monkeypatch):
    bank = filled(new_bank(storage, storage, search_storage))
    bank.save(tmp_path / "a.bank")
    monkeypatch.setattr("ltm.bank.disk.loading.SEARCH_BYTES", 0)  # search keys stay in their files too
    mapped, read = (Bank.load(tmp_path / "a.bank", mmap=mmap) for mmap in (True, False))
    plain = plain_reader.read_bank(tmp_path / "a.bank")
    assert plain.texts == {number: f"words {number}" for number in range(5)}
    queries = torch.randn(2, 4, 3, 8)
    for layer in range(2):
        found = bank.retrieve(queries, 5, layer=layer)
        for other in (mapped, read):
            hits = other.search(queries, 5, layer=layer)
            torch.testing.assert_close(hits.scores, found.hits.scores)
            near, again_near = (one.neighbours(queries[:, :2], 4, layer=layer) for one in (bank, other))
            assert torch.equal(near.hits.slots, again_near.hits.slots)
            # A kernel may sum in another order where a mapped file begins at another address (on Intel it does).
            torch.testing.assert_close(near.hits.scores, again_near.hits.scores)
            if search_storage != "bfloat16":  # whose scores tie, and then any of the chunks is right
                assert torch.equal(found.hits.slots, hits.slots) and torch.equal(near.next_ids, again_near.next_ids)
            keys, values, mask = other.gather(found.hits, layer=layer)
            assert torch.equal(found.keys[found.mask], keys[mask]) and torch.equal(found.values[mask], values[mask])
        for row in range(2):
            keys, values, mask = everything(bank, row, layer)
            for tensor, array in ((keys, plain.rows[row].keys), (values, plain.rows[row].values)):
                same = torch.from_numpy(array[layer].copy()).flatten(1, 2)
                assert torch.allclose(tensor[mask].float(), same[mask], atol=2e-5, rtol=1e-5)
    held = [bank.sources(plain.rows[row].numbers.tolist(), row) for row in range(2)]
    for row, sources in enumerate(held):
        for index, source in enumerate(sources):
            array = plain.rows[row]
            assert source.token_ids == array.token_ids[index, : array.counts[index]].tolist()
            assert (source.document, source.start, source.end) == (array.documents[index], *array.spans[index])


@pytest.mark.parametrize(
    "storages, expected",
    [
        ((None, None, None), 3 * 2 * 2 * 8 * 2 * 4 + 2 * 2 * 8 * 4),
        (("int8", "int4", "int8"), 2 * 2 * (3 * 8 + 2 + 3 * 4 + 2 + 8 + 2)),
        (("int4", "int4", "derived"), 2 * 2 * 2 * (3 * 4 + 2)),
    ],
)
def test_bytes_are_what_the_storage_says(storages, expected):
    bank = filled(new_bank(*storages))
    assert bank.layout.bytes_per_chunk == expected + 8 + 4 + 4 + 3 * 4 + 2 * 4
    buffers = bank.rows[0].ring.buffers.values()
    assert bank.rows[0].nbytes == sum(t.untyped_storage().nbytes() for t in buffers)
    assert bank.rows[0].nbytes == bank.rows[0].ring.capacity * bank.layout.bytes_per_chunk


def test_codes_are_the_same_under_autocast():
    plain, cast = filled(new_bank("int4", "int4")), new_bank("int4", "int4")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        filled(cast)
        keys = everything(cast, 0, 1)[0]
    assert torch.equal(keys, everything(plain, 0, 1)[0])


def test_a_budget_in_bytes_holds_more_of_what_is_smaller():
    sizes = {"memory_size": None, "memory_bytes": 20_000}
    large, small = new_bank(**sizes), new_bank("int4", "int4", "derived", **sizes)
    for bank in (large, small):
        for seed in range(40):
            keys, values, ids = tokens_of(30, batch=2, seed=seed)
            bank.write(keys[:, None], values[:, None], ids[:1], rows=[0])
        assert bank.rows[0].nbytes <= 20_000
    assert small.num_tokens() > 5 * large.num_tokens()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"key_storage": "int3"}, "key_storage='int3'; use one of float32"),
        ({"search_storage": "half"}, "or None"),
        ({"value_storage": "derived"}, "value_storage='derived'"),
    ],
)
def test_unknown_storages_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        BankConfig(**options)


def test_storages_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="head_dim=3 is odd"):
        Bank(BankConfig(key_storage="int4"), num_rows=1, num_kv_heads=1, head_dim=3)
    with pytest.raises(ConfigError, match="key_center is"):
        Bank(num_rows=1, num_kv_heads=1, head_dim=4, key_center=torch.zeros(1, 4))


def test_faiss_sees_what_is_stored(tmp_path):
    pytest.importorskip("faiss", reason="faiss is not installed")
    queries = torch.randn(1, 4, 3, 8)
    for storages in (("int4", None, "derived"), (None, None, "int8"), ("int4", "int4", "float32")):
        one, other = filled(new_bank(*storages)), filled(new_bank(*storages, index="faiss"))
        found, again = (bank.search(queries, 4, rows=[0]) for bank in (one, other))
        assert torch.allclose(found.scores, again.scores, atol=1e-4) and torch.equal(found.slots, again.slots)


def test_the_plain_reader_needs_neither_torch_nor_the_library(tmp_path):
    filled(new_bank("int4", "int8", "int8", dtype=torch.bfloat16)).save(tmp_path / "a.bank")
    blocked = "import sys, runpy; sys.modules['torch'] = sys.modules['ltm'] = None; sys.argv = sys.argv[1:]; "
    script = [sys.executable, "-c", blocked + "runpy.run_path(sys.argv[0], run_name='__main__')"]
    ran = subprocess.run([*script, plain_reader.__file__, str(tmp_path / "a.bank")], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "row 0: 40 tokens in" in ran.stdout and "document 4: text 4, 5 tokens, 7 characters" in ran.stdout


def test_the_plain_reader_sees_damage(tmp_path):
    filled(new_bank()).save(tmp_path / "a.bank")
    shard = tmp_path / "a.bank" / Bank.read_manifest(tmp_path / "a.bank").shards[0].file
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x07")
    with pytest.raises(ValueError, match="not what was written"):
        plain_reader.read_bank(tmp_path / "a.bank")
    manifest = Path(tmp_path / "a.bank" / "manifest.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "head_dim": 4}))
    with pytest.raises(ValueError, match="the checksum of its manifest does not agree"):
        plain_reader.read_bank(tmp_path / "a.bank")
