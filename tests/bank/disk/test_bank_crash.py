"""Killed writers, full disks, torn and flipped bytes: everything that was complete, or refused with what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from bank.disk.killed_writer import change, new_bank, state_of
from bank.resigned import read_values, shard_entries, sign_shard, write_values
from hypothesis import given, settings
from hypothesis import strategies as st

from ltm.bank import Bank
from ltm.errors import BankCorruptError, BankError, LtmError


def kill_writers(folder: Path, kills: int, storage: str | None) -> int:
    """Returns how many saves were begun."""
    if sys.platform == "win32":
        pytest.skip("needs fork and SIGKILL")
    script = Path(__file__).with_name("killed_writer.py")
    command = [sys.executable, str(script), str(folder), str(kills), *([storage] if storage else [])]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert ran.returncode == 0, ran.stdout[-200:] + ran.stderr[-2000:]
    return int(ran.stdout.split()[-1])


@pytest.mark.parametrize("storage, kills", [(None, 8), ("int4", 7)])
def test_killed_at_random_moments(tmp_path, storage, kills):
    assert kill_writers(tmp_path, kills, storage) >= kills


@pytest.mark.slow
@pytest.mark.parametrize("storage", [None, "int4"])
def test_killed_at_random_moments_300_times(tmp_path, storage):
    assert kill_writers(tmp_path, 150, storage) >= 150


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if mount is None or subprocess.run([mount, *options], capture_output=True).returncode:
        pytest.skip("this user cannot mount a small tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_what_was_saved(small_disk):
    path, bank, saved = small_disk / "a.bank", Bank(num_rows=1, num_kv_heads=1, head_dim=64), None
    with pytest.raises(BankError, match="No space left on device; the bank there is still what was saved last"):
        for step in range(1000):
            keys, values = torch.randn(2, 1, 1, 40, 64)
            bank.write(keys, values, torch.full((1, 40), step))
            bank.save(path)
            saved = state_of(bank)
    assert saved is not None and state_of(Bank.load(path, verify=True)) == saved
    assert len(list((path / "shards").iterdir())) == len(Bank.read_manifest(path).shards)  # nothing half written
    other = small_disk / "b.bank"
    with pytest.raises(BankError, match="nothing was left there"):
        bank.save(other)
    assert not other.exists()
    bank.rows[0].evict(bank.num_chunks() // 2)
    with suppress(BankError):
        bank.save(path, compact=True)  # needs room for the half beside the whole: either way it is sound
    assert Bank.load(path, verify=True).num_tokens() > 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A bank of several shards and texts, its state, and its files."""
    path = tmp_path_factory.mktemp("whole") / "a.bank"
    bank = new_bank("int8")
    for step in range(12):
        change(bank, step)
        bank.save(path)
    files = [file.relative_to(path) for file in sorted(path.rglob("*")) if file.is_file() and file.name != ".lock"]
    return path, state_of(bank), files


def opened(path: Path) -> str | None:
    """The state of a bank, or None if it is refused in one line that says what to do; anything else is an error."""
    try:
        return state_of(Bank.load(path, verify=True))
    except LtmError as error:
        assert "\n" not in str(error) and ";" in str(error), str(error)
        return None


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_is_refused_or_harmless(whole, tmp_path_factory, data):
    source, state, files = whole
    path = tmp_path_factory.mktemp("damaged") / "a.bank"
    shutil.copytree(source, path)
    file = path / data.draw(st.sampled_from(files))
    content = file.read_bytes()
    place = data.draw(st.integers(0, max(len(content) - 1, 0)))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "zero", "remove", "swap", "empty"]))
    if kind == "flip" and content:
        changed = content[:place] + bytes([content[place] ^ data.draw(st.integers(1, 255))]) + content[place + 1 :]
    elif kind == "insert":
        changed = content[:place] + data.draw(st.binary(min_size=1, max_size=9)) + content[place:]
    elif kind == "zero":
        changed = content[:place] + bytes(len(content) - place)
    elif kind == "swap":
        changed = (path / data.draw(st.sampled_from(files))).read_bytes()
    else:
        changed = content[:place] if kind != "empty" else b""
    file.write_bytes(changed)
    if kind == "remove":
        file.unlink()
    found = opened(path)
    assert found in (None, state)
    if file.name != "manifest.json" and changed != content:
        assert found is None
        with pytest.raises(BankCorruptError, match=file.name):
            Bank.load(path, verify=True)
    shutil.rmtree(path.parent)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 300), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places_in(value, path=()):
    """Every place of a JSON value, by the keys that lead there."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places_in(inner, (*path, key))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_manifest_that_makes_no_sense_is_refused_though_its_checksum_is_right(whole, tmp_path_factory, data):
    source, state, _ = whole
    values = read_values(source)
    *way, last = data.draw(st.sampled_from([place for place in places_in(values) if len(place) > 1]))
    inner = values
    for key in way:
        inner = inner[key]
    before = inner[last]
    if data.draw(st.booleans()):
        inner[last] = data.draw(VALUES)
    elif isinstance(before, int) and not isinstance(before, bool):
        inner[last] = before + data.draw(st.sampled_from([-1, 1, 1000]))
    else:
        del inner[last]
    path = tmp_path_factory.mktemp("odd") / "a.bank"
    shutil.copytree(source, path)
    write_values(path, values)
    loaded = opened(path)  # no other error than one meant for a user, and tensors are only those that were saved
    harmless = {"uuid", "revision", "library", "backbone", "method", "fingerprint_values", "extra", "config", "layers"}
    if not {*way, last} & (harmless | {"documents", "rows", "next_document", "key_center", "dtype", "journal"}):
        assert loaded in (None, state)
    shutil.rmtree(path.parent)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_shard_that_is_not_what_the_manifest_says_is_refused_though_its_checksum_is_right(
    whole, tmp_path_factory, data
):
    source, state, _ = whole
    path = tmp_path_factory.mktemp("odd") / "a.bank"
    shutil.copytree(source, path)
    values = read_values(path)
    entry = data.draw(st.sampled_from(shard_entries(values)))
    content = bytearray((path / entry["file"]).read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    place = data.draw(st.integers(0, header - 1))  # of the header: names, types, shapes and offsets
    content[place] ^= data.draw(st.integers(1, 255))
    sign_shard(path, entry, bytes(content))
    write_values(path, values)
    loaded = opened(path)
    metadata = b"__metadata__" in content[8:header]
    assert loaded in (None, state) or metadata
    shutil.rmtree(path.parent)


def test_a_torn_manifest_says_what_to_do(whole, tmp_path):
    path = tmp_path / "a.bank"
    shutil.copytree(whole[0], path)
    manifest = path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-100])
    with pytest.raises(BankCorruptError, match=r"manifest\.json is damaged.*; put back a copy of the bank"):
        Bank.load(path)
    with pytest.raises(BankCorruptError):
        new_bank(None).save(path)  # nor is it saved over without being asked to
    assert os.path.getsize(manifest) > 0
