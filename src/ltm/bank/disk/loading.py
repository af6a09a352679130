"""Loading a bank: manifest, checks, then search keys into memory and the rest mapped from its files."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ltm.bank.chunks import ChunkLayout
from ltm.bank.contents import BankContents
from ltm.bank.disk.file_names import MANIFEST
from ltm.bank.disk.integrity import shard_problems
from ltm.bank.disk.manifest import Manifest
from ltm.bank.disk.manifest_entries import FileEntry, RowEntry, ShardEntry
from ltm.bank.disk.manifest_file import damaged, read_manifest
from ltm.bank.disk.plain_files import NotPlainError, open_plain, plain_stat, read_plain
from ltm.bank.disk.prefetch import read_ahead
from ltm.bank.disk.saved import opened
from ltm.bank.documents import BankDocument, joined
from ltm.bank.rows import MemoryRow
from ltm.bank.stored_tensor import Chunks, Field
from ltm.errors import BankCorruptError, BankError, BankMismatchError

if TYPE_CHECKING:
    from ltm.backbone.fingerprint import Fingerprint

AnyBank = TypeVar("AnyBank", bound=BankContents)

SEARCH_BYTES = 256 * 2**20
"""Search keys of a bank that stay in its files where they are more than this: opening takes no longer, and the memory
of a small machine is enough; below it they are read, and searched faster."""
VERIFY_BYTES = 512 * 2**20
"""Banks up to this size are read through and compared with their checksums at every load: half a second."""


def load_bank(
    make: type[AnyBank],
    path: Path,
    fingerprint: Fingerprint | None,
    device: torch.device | str | None,
    mmap: bool,
    verify: bool | None,
) -> AnyBank:
    """See `Bank.load`; make: the class of the bank."""
    manifest = read_manifest(path)
    _check_fingerprint(manifest, path, fingerprint)
    try:
        checksums = manifest.num_bytes <= VERIFY_BYTES if verify is None else verify
        check_files(path, manifest, checksums)
        return _load(make, path, manifest, device, mmap, checksums)
    except BankCorruptError:
        if read_manifest(path).revision == manifest.revision:
            raise
    return load_bank(make, path, fingerprint, device, mmap, verify)  # it was saved anew while it was being read


def check_files(path: Path, manifest: Manifest, checksums: bool) -> None:
    """Compare every shard with the manifest: its size, and if asked its checksum. Raises BankCorruptError."""
    for shard in manifest.shards:
        with _told(path, shard.file):
            _check_size(plain_stat(path, shard.file).st_size, shard)
            if checksums:
                _check_content(_sha256(path, shard.file), shard)


@contextmanager
def _told(path: Path, name: str) -> Iterator[None]:
    """What is wrong with a file, as an error that names it: damaged, or (permissions, a bad disk) not to be read."""
    try:
        yield
    except FileNotFoundError as error:
        raise BankCorruptError(damaged(path / name, "it is missing")) from error
    except NotPlainError as error:
        raise BankCorruptError(damaged(path / name, str(error.strerror))) from error
    except OSError as error:
        raise BankError(f"{path / name} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise BankCorruptError(damaged(path / name, str(error))) from error


def _check_size(size: int, entry: ShardEntry | FileEntry) -> None:
    if size != entry.num_bytes:
        raise ValueError(f"it has {size} bytes instead of {entry.num_bytes}")


def _check_content(sha256: str, entry: ShardEntry | FileEntry) -> None:
    if sha256 != entry.sha256:
        raise ValueError("its content is not what was written")


def _sha256(path: Path, name: str) -> str:
    digest = hashlib.sha256()
    with open_plain(path, name) as content:
        while block := content.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _check_fingerprint(manifest: Manifest, path: Path, fingerprint: Fingerprint | None) -> None:
    stored = manifest.fingerprint if fingerprint is not None else None
    differences = stored.differences(fingerprint) if stored is not None and fingerprint is not None else []
    if differences:
        raise BankMismatchError(
            f"{path} was made by another backbone: {'; '.join(differences)}; use that one, or read the texts again"
        )


def _load(
    make: type[AnyBank],
    path: Path,
    manifest: Manifest,
    device: torch.device | str | None,
    mmap: bool,
    checksums: bool,
) -> AnyBank:
    bank = make(
        manifest.config,
        num_rows=len(manifest.rows),
        num_kv_heads=manifest.num_kv_heads,
        head_dim=manifest.head_dim,
        layers=manifest.layers,
        dtype=getattr(torch, manifest.dtype),
        device="cpu" if device is None else device,
        fingerprint=manifest.fingerprint_values,
        backbone=manifest.backbone,
        key_center=_center(path, manifest),
    )
    bank.uuid, bank.extra = manifest.uuid, manifest.extra
    bank.method = manifest.method
    bank.saved[path.resolve()] = state = opened(manifest)
    mapped = mapped_names(bank.layout, manifest) if mmap and bank.device.type == "cpu" else ()
    read_ahead(path, [shard.file for shard in manifest.shards], bank.layout.all_fields.keys() - set(mapped))
    for number, (row, entry) in enumerate(zip(bank.rows, manifest.rows, strict=True)):
        checked = bank.layout.all_fields.keys() - (() if checksums else set(mapped))
        read = (
            _read_shard(path, row.layout, shard, entry.first, bank.vocab_size, checked)
            for shard in state.shards[number]
        )
        _fill_row(row, entry, path, read, mapped)
    for document in manifest.documents:
        info = document.info
        text = None if document.text is None else _read_text(path, document.text, checksums)
        ranges = None if document.ranges is None else joined((start, end) for start, end in document.ranges)
        bank.document_registry.put(BankDocument(info.id, info.name, info.row, text, info.complete, ranges))
    bank.document_registry.next_id = manifest.next_document
    return bank


def mapped_names(layout: ChunkLayout, manifest: Manifest) -> tuple[str, ...]:
    """The fields that stay in the files."""
    search_bytes = sum(layout.fields[name].bytes_per_chunk for name in layout.of_search) * manifest.num_chunks
    return layout.heavy + (layout.of_search if search_bytes > SEARCH_BYTES else ())


def _center(path: Path, manifest: Manifest) -> Tensor | None:
    """The centre of keys; raises BankCorruptError where it does not fit."""
    if manifest.key_center is None:
        return None
    shape = (len(manifest.layers), manifest.num_kv_heads, manifest.head_dim)
    try:
        numbers = np.frombuffer(base64.b64decode(manifest.key_center, validate=True), "<f4")
        if not np.isfinite(numbers).all():
            raise ValueError("it holds numbers that are none (NaN or infinite)")
        return torch.from_numpy(numbers.astype(np.float32).reshape(shape))
    except ValueError as error:
        raise BankCorruptError(damaged(path / MANIFEST, f"its key_center: {error}")) from error


def _fill_row(row: MemoryRow, entry: RowEntry, path: Path, read: Iterator[Chunks], mapped: Sequence[str]) -> None:
    row.next_slot = entry.next
    blocks = [block for block in read if len(block["numbers"])]
    if blocks:
        in_files = [{name: block.pop(name) for name in mapped} for block in blocks] if mapped else []
        axes = {name: field.axis for name, field in row.layout.all_fields.items()}
        chunks = {name: torch.cat([block[name] for block in blocks], dim=axes[name]) for name in blocks[0]}
        row.restore(chunks, in_files, entry.next)
    if (row.num_chunks, row.num_tokens) != (entry.num_chunks, entry.num_tokens):
        why = f"a row has {row.num_tokens} tokens in its shards instead of {entry.num_tokens}"
        raise BankCorruptError(damaged(path, why))
    if row.events is not None and not row.events.lie_within(row.slots()):
        raise BankCorruptError(damaged(path, "a row has events whose tokens are not there"))


def _read_shard(
    path: Path, layout: ChunkLayout, entry: ShardEntry, first: int, vocab_size: int | None, checked: Collection[str]
) -> Chunks:
    """A shard's chunks from slot `first` on (older ones were evicted), still mapped from the file; arguments as of
    `shard_problems`."""
    file = path / entry.file
    try:
        plain_stat(path, entry.file)  # what follows opens it by its name
        with safe_open(file, framework="pt") as shard:
            tensors = {name: shard.get_tensor(name) for name in layout.all_fields}
        problem = next(shard_problems(tensors, entry, layout, vocab_size, checked), None)
    except (SafetensorError, OSError) as error:
        raise BankCorruptError(damaged(file, str(error))) from error
    except RuntimeError as error:  # torch: the file has just been removed, or there is no room in the address space
        if not file.exists():
            raise BankCorruptError(damaged(file, "it is missing")) from error
        raise BankError(f"{file} cannot be mapped into memory: {error}; give the process more") from error
    if problem is not None:
        raise BankCorruptError(damaged(file, problem))
    return {**_kept(tensors, layout.fields, "numbers", first), **_kept(tensors, layout.event_fields, "starts", first)}


def _kept(tensors: Chunks, fields: Mapping[str, Field], slots: str, first: int) -> Chunks:
    """Some fields without what lies in slots below `first`; slots: the field that holds them, ascending."""
    if not fields:
        return {}
    evicted = int((tensors[slots] < first).sum())
    left = len(tensors[slots]) - evicted
    return {name: tensors[name].narrow(field.axis, evicted, left) for name, field in fields.items()}


def _read_text(path: Path, entry: FileEntry, checksums: bool) -> str:
    with _told(path, entry.file):
        content = read_plain(path, entry.file, entry.num_bytes + 1)
        _check_size(len(content), entry)
        if checksums:
            _check_content(hashlib.sha256(content).hexdigest(), entry)
        return content.decode("utf-8", "surrogatepass")
