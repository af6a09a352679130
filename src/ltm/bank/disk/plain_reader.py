"""Read a saved bank with numpy and safetensors alone: docs/bank-format.md as a program, for other tools.

    python plain_reader.py moby.bank            # what is in it, every checksum compared

It shares no code with the rest of the library, so that it is a second opinion on what is on the disk.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import deserialize

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}
BITS = {"int8": 8, "int4": 4}
PLAIN = ("numbers", "counts", "documents", "token_ids", "spans")
EVENTS = ("event_keys", "starts", "sizes")


@dataclass
class PlainRow:
    """One row, oldest chunk first. keys, values: float32 [layers, kv_heads, chunks, chunk_size, head_dim] (float64
    where so stored); search_keys: [layers, kv_heads, chunks, head_dim]; numbers, counts, documents [chunks]; token_ids
    [chunks, chunk_size]; spans [chunks, 2]. Of a chunk only the first counts[chunk] tokens mean something.

    In a bank of events search_keys is None, and there are event_keys [layers, events, event_heads * head_dim], starts
    [events] (the number of the first token's chunk) and sizes [events]; they are None in any other."""

    keys: np.ndarray
    values: np.ndarray
    search_keys: np.ndarray | None
    numbers: np.ndarray
    counts: np.ndarray
    documents: np.ndarray
    token_ids: np.ndarray
    spans: np.ndarray
    event_keys: np.ndarray | None = None
    starts: np.ndarray | None = None
    sizes: np.ndarray | None = None


@dataclass
class PlainBank:
    """manifest: as in the file; texts: by document id."""

    manifest: dict[str, Any]
    rows: list[PlainRow]
    texts: dict[int, str]


def read_bank(path: str | Path) -> PlainBank:
    """A saved bank, every checksum compared. Raises ValueError where one does not agree.

    >>> read_bank("moby.bank").rows[0].keys.shape  # doctest: +SKIP
    (1, 3, 32768, 2, 64)
    """
    path = Path(path)
    manifest = read_manifest(path)
    rows = [_read_row(path, manifest, number) for number in range(len(manifest["rows"]))]
    texts = {
        document["info"]["id"]: _content(path, document["text"]).decode("utf-8", "surrogatepass")
        for document in manifest["documents"]
        if document["text"] is not None
    }
    return PlainBank(manifest, rows, texts)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, its own checksum compared, with the `documents` and `shards` that its journal lists."""
    manifest = json.loads(_plain_bytes(path, "manifest.json"))
    if manifest["format"] != "ltm-bank" or manifest["version"] not in (2, 3):
        raise ValueError(f"{path}: format {manifest['format']} {manifest['version']}; this reads ltm-bank 2 and 3")
    values = {name: value for name, value in manifest.items() if name != "checksum"}
    content = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    if hashlib.sha256(content).hexdigest() != manifest["checksum"]:
        raise ValueError(f"{path}: the checksum of its manifest does not agree")
    return dict(manifest) if manifest["version"] == 2 else {**manifest, **_replay(path, manifest["journal"])}


def _replay(path: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """Documents and shards after the journal's last line; what comes after num_bytes is of a save that was killed."""
    content = _checked(_plain_bytes(path, entry["file"])[: entry["num_bytes"]], entry)
    documents: dict[int, Any] = {}
    shards: dict[str, Any] = {}
    for line in content.split(b"\n")[:-1]:
        record = json.loads(line)
        documents |= {document["info"]["id"]: document for document in record["documents"]}
        shards = {name: shard for name, shard in shards.items() if name not in record["dropped"]}
        shards |= {shard["file"]: shard for shard in record["shards"]}
    return {"documents": list(documents.values()), "shards": list(shards.values())}


def _content(path: Path, entry: dict[str, Any]) -> bytes:
    return _checked(_plain_bytes(path, entry["file"]), entry)


def _checked(content: bytes, entry: dict[str, Any]) -> bytes:
    if len(content) != entry["num_bytes"] or hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ValueError(f"{entry['file']}: not what was written")
    return content


def _plain_bytes(path: Path, name: str) -> bytes:
    """A file of the bank, which must be one: a link could lead anywhere, and a pipe or a device has no end."""
    places = [path.joinpath(*name.split("/")[: depth + 1]) for depth in range(name.count("/") + 1)]
    for place, is_right in zip(places, [*[stat.S_ISDIR] * (len(places) - 1), stat.S_ISREG], strict=True):
        if not is_right(os.lstat(place).st_mode):
            raise ValueError(f"{place} is a link or a special file; a bank has none")
    return places[-1].read_bytes()


def _read_row(path: Path, manifest: dict[str, Any], number: int) -> PlainRow:
    shards = sorted((s for s in manifest["shards"] if s["row"] == number), key=lambda shard: shard["first"])
    parts = [_read_shard(_content(path, shard), manifest["rows"][number]["first"]) for shard in shards]
    if not parts:
        parts = [_nothing(manifest)]
    fields = {name: np.concatenate([part[name] for part in parts], axis=_axis(name)) for name in parts[0]}
    center = _center(manifest)
    keys = _floats(fields, "keys", manifest["config"]["key_storage"], center)
    counts = fields["counts"]
    search_keys: np.ndarray | None = None
    if "search_keys" in fields:
        search_keys = _floats(fields, "search_keys", manifest["config"]["search_storage"], center)
    elif "starts" not in fields:  # derived
        there = np.arange(keys.shape[3]) < counts[:, None]  # [chunks, chunk_size]
        search_keys = (keys * there[..., None]).sum(axis=3) / counts[:, None]
    plain = {name: fields[name] for name in (*PLAIN, *EVENTS) if name in fields}
    values = _floats(fields, "values", manifest["config"]["value_storage"], None)
    return PlainRow(keys, values, search_keys, **plain)


def _read_shard(content: bytes, first: int) -> dict[str, np.ndarray]:
    """The fields of the chunks with slots from `first` on; older ones were forgotten."""
    fields = {}
    for name, tensor in deserialize(content):
        if tensor["dtype"] == "BF16":  # the upper half of a float32
            halves = np.frombuffer(tensor["data"], "<u2").astype("<u4") << 16
            fields[name] = halves.view("<f4").reshape(tensor["shape"])
        else:
            fields[name] = np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
    kept = fields["numbers"] >= first
    of_events = fields["starts"] >= first if "starts" in fields else kept
    return {
        name: np.compress(of_events if name in EVENTS else kept, field, axis=_axis(name))
        for name, field in fields.items()
    }


def _axis(name: str) -> int:
    """Which axis of a field is that of chunks, or events."""
    return {"keys": 2, "values": 2, "search_keys": 2, "event_keys": 1}.get(name.split(".")[0], 0)


def _nothing(manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """The fields of no chunks, as floats."""
    before, size = (len(manifest["layers"]), manifest["num_kv_heads"], 0), manifest["config"]["chunk_size"]
    entry = np.zeros((*before, size, manifest["head_dim"]), "<f4")
    fields = {"keys": entry, "values": entry, "numbers": np.zeros(0, "<i8")}
    ids, spans = np.zeros((0, size), "<i4"), np.zeros((0, 2), "<i4")
    heads = manifest["config"]["event_heads"]
    if heads is None:
        fields["search_keys"] = entry[..., 0, :]
    else:
        fields["event_keys"] = np.zeros((before[0], 0, heads * manifest["head_dim"]), "<f4")
        fields |= {"starts": np.zeros(0, "<i8"), "sizes": np.zeros(0, "<i4")}
    return {**fields, "counts": ids[:, 0], "documents": ids[:, 0], "token_ids": ids, "spans": spans}


def _floats(fields: dict[str, np.ndarray], name: str, storage: str | None, center: np.ndarray | None) -> np.ndarray:
    """Keys, values or search keys as numbers."""
    stored = fields[name]
    if name + ".scale" not in fields:
        return stored if stored.dtype == np.float64 else stored.astype(np.float32)
    bits = BITS[storage or ""]
    if bits == 4:  # two codes in a byte, the first in the lower half
        stored = np.stack((stored & 15, stored >> 4), axis=-1).reshape(*stored.shape[:-1], -1)
    scales = fields[name + ".scale"].astype(np.float32)
    scales = scales.reshape(*scales.shape, *(1,) * (stored.ndim - 3))
    rotated = (stored.astype(np.float32) - (2**bits - 1) / 2) * scales
    vectors = rotated @ hadamard(stored.shape[-1])
    if center is not None:
        vectors = vectors + center.reshape(*center.shape[:2], *(1,) * (stored.ndim - 3), -1)
    return vectors


def hadamard(size: int) -> np.ndarray:
    """The rotation, its own inverse: blocks of n, the largest power of two in size, with (-1)^(bits that i and j share)
    over the square root of n at row i, column j."""
    n = size & -size
    shared = np.array([[bin(i & j).count("1") for j in range(n)] for i in range(n)])
    return np.kron(np.eye(size // n), (-1.0) ** shared / np.sqrt(n)).astype(np.float32)


def _center(manifest: dict[str, Any]) -> np.ndarray | None:
    if manifest["key_center"] is None:
        return None
    shape = (len(manifest["layers"]), manifest["num_kv_heads"], manifest["head_dim"])
    return np.frombuffer(base64.b64decode(manifest["key_center"]), "<f4").reshape(shape)


def main() -> None:
    """Print what a bank holds."""
    bank = read_bank(sys.argv[1])
    for document in bank.manifest["documents"]:
        info = document["info"]
        print(f"document {info['id']}: {info['name']}, {info['num_tokens']} tokens, {info['num_chars']} characters")
    for number, row in enumerate(bank.rows):
        events = "" if row.sizes is None else f", {len(row.sizes)} events"
        print(
            f"row {number}: {int(row.counts.sum())} tokens in {len(row.counts)} chunks{events}, keys {row.keys.shape}"
        )


if __name__ == "__main__":
    main()
