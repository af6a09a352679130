"""What a manifest or a shard's header asks for is bounded, and told in one line, though its checksums are right."""

from __future__ import annotations

import json

import pytest
from bank.model_bank import tokens_of
from bank.resigned import read_values, shard_entries, sign_shard, write_values

from ltm.bank import Bank, BankConfig
from ltm.bank.method_entry import MethodEntry
from ltm.errors import BankCorruptError, BankError, ConfigError

HUGE = 10**4000
CHANGES = {
    "uuid": lambda m: m.update(uuid="\ud800"),
    "200,000 rows": lambda m: m.update(rows=m["rows"] * 200_000),
    "head_dim": lambda m: m.update(head_dim=10**12),
    "head_dim beyond a number": lambda m: m.update(head_dim=HUGE),
    "kv heads by head_dim": lambda m: m.update(
        num_kv_heads=4096, head_dim=16384, config={**m["config"], "chunk_size": 4096}
    ),
    "layers": lambda m: m.update(layers=[0] * 5000),
    "a layer": lambda m: m.update(layers=[2**40]),
    "next": lambda m: m["rows"][0].update(next=2**63),
    "tokens": lambda m: m["rows"][0].update(num_tokens=HUGE),
    "next_document": lambda m: m.update(next_document=2**31),
    "chunk_size": lambda m: m["config"].update(chunk_size=2**40),
    "memory_size": lambda m: m["config"].update(memory_size=HUGE),
    "event_heads": lambda m: m["config"].update(event_heads=2**40),
    "index": lambda m: m["config"].update(index=["exact"]),
    "evict": lambda m: m["config"].update(evict={}),
    "storage": lambda m: m["config"].update(key_storage=[[]]),
    "dtype": lambda m: m.update(dtype="int64"),
    "journal's bytes": lambda m: m["journal"].update(num_bytes=HUGE, sha256=0),
    "journal's name": lambda m: m["journal"].update(file="../mine"),
    "fingerprint's dtype": lambda m: m.update(fingerprint_values={"dtype": ["float32"]}),
    "fingerprint's vocabulary": lambda m: m.update(fingerprint_values={"vocab_size": "many"}),
    "method's options": lambda m: m["method"].update(options={"chunk_size": [[]]}),
    "method": lambda m: m.update(method="longmem"),
    "nested": lambda m: m.update(extra=json.loads("[" * 400 + "]" * 400)),
}


@pytest.fixture
def path(tmp_path):
    bank = Bank(BankConfig(memory_size=60), num_rows=1, num_kv_heads=2, head_dim=8)
    bank.method = MethodEntry("longmem", {"chunk_size": 4}, None)
    bank.write(*tokens_of(8), documents=[bank.add_document("one", text="the text")])
    bank.save(tmp_path / "a.bank")
    return tmp_path / "a.bank"


@pytest.mark.parametrize("change", CHANGES)
def test_manifests_that_ask_for_too_much(path, change):
    values = read_values(path)
    CHANGES[change](values["manifest"])
    write_values(path, values)
    for opening in (Bank.load, Bank.read_manifest):
        with pytest.raises(BankCorruptError) as error:
            opening(path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("number", [-1, 2**50, 2**63, HUGE])
@pytest.mark.parametrize("where", ["text", "shard"])
def test_files_of_sizes_that_cannot_be(path, number, where):
    values = read_values(path)
    entry = shard_entries(values)[0] if where == "shard" else values["journal"][0]["documents"][0]["text"]
    entry["num_bytes"] = number
    write_values(path, values)
    with pytest.raises(BankCorruptError):
        Bank.load(path)


@pytest.mark.parametrize("ranges", [[[0, 9]], [[3, 2]], [[-1, 2]], [[4, 6], [0, 2]], [[0]], [[0, HUGE]], [0, 2], "all"])
def test_ranges_that_a_text_has_not(path, ranges):
    values = read_values(path)
    values["journal"][0]["documents"][0]["ranges"] = ranges
    write_values(path, values)
    with pytest.raises(BankCorruptError):
        Bank.load(path)


def test_a_format_that_is_no_number(path):
    values = read_values(path)
    values["manifest"]["version"] = HUGE
    write_values(path, values)
    with pytest.raises(BankError, match="upgrade ltm|cannot be read") as error:
        Bank.load(path)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("depth", [100, 10_000, 100_000])
def test_nested_headers_of_shards(path, depth):
    values = read_values(path)
    entry = shard_entries(values)[0]
    content = (path / entry["file"]).read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size].rstrip()[:-1] + b',"deep":' + b"[" * depth + b"]" * depth + b"}"
    sign_shard(path, entry, len(header).to_bytes(8, "little") + header + content[8 + size :])
    write_values(path, values)
    with pytest.raises(BankError, match="damaged"):
        Bank.load(path)


def test_the_same_bounds_for_a_new_bank():
    with pytest.raises(ConfigError, match="chunk_size=1099511627776; use a whole number of 1 to 65,536"):
        BankConfig(chunk_size=2**40)
    with pytest.raises(ConfigError, match="index=.*; use one of"):
        BankConfig(index=["exact"])  # type: ignore[arg-type]
