"""Loading a bank: manifest, checks, then search keys into memory and the rest mapped from its files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from ltm.bank.chunks import HEAVY, ChunkLayout, Chunks
from ltm.bank.documents import Document
from ltm.bank.manifest import Manifest, RowEntry, ShardEntry, TextEntry, damaged, read_manifest
from ltm.bank.rows import Row
from ltm.errors import BankCorruptError, BankError, BankMismatchError

if TYPE_CHECKING:
    from ltm.backbone.fingerprint import Fingerprint
    from ltm.bank.bank import Bank

VERIFY_BYTES = 512 * 2**20
"""Banks up to this size are read through and compared with their checksums at every load: half a second."""


def load_bank(
    make: type[Bank],
    path: Path,
    fingerprint: Fingerprint | None,
    device: torch.device | str | None,
    mmap: bool,
    verify: bool | None,
) -> Bank:
    """See `Bank.load`."""
    manifest = read_manifest(path)
    _check_fingerprint(manifest, path, fingerprint)
    try:
        check_files(path, manifest, manifest.num_bytes <= VERIFY_BYTES if verify is None else verify)
        return _load(make, path, manifest, device, mmap)
    except BankCorruptError:
        if read_manifest(path).revision == manifest.revision:
            raise
    return load_bank(make, path, fingerprint, device, mmap, verify)  # it was saved anew while it was being read


def check_files(path: Path, manifest: Manifest, checksums: bool) -> None:
    """Compare every file with the manifest: its size, and if asked its checksum. Raises BankCorruptError."""
    for file in manifest.files:
        _check_file(path / file.file, file, checksums)


def _check_file(file: Path, entry: ShardEntry | TextEntry, checksums: bool) -> None:
    try:
        size = file.stat().st_size
        if size != entry.num_bytes:
            raise BankCorruptError(damaged(file, f"it has {size} bytes instead of {entry.num_bytes}"))
        if checksums and _sha256(file) != entry.sha256:
            raise BankCorruptError(damaged(file, "its content is not what was written"))
    except FileNotFoundError as error:
        raise BankCorruptError(damaged(file, "it is missing")) from error
    except OSError as error:
        raise BankError(f"{file} cannot be read: {error.strerror or error}") from error


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as content:
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
    make: type[Bank],
    path: Path,
    manifest: Manifest,
    device: torch.device | str | None,
    mmap: bool,
) -> Bank:
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
    )
    bank.uuid, bank.extra = manifest.uuid, manifest.extra
    bank.saved_revisions[path.resolve()] = manifest.revision
    for number, (row, entry) in enumerate(zip(bank.rows, manifest.rows, strict=True)):
        shards = sorted((s for s in manifest.shards if s.row == number), key=lambda shard: shard.first)
        _fill_row(row, entry, [path / shard.file for shard in shards], mmap and bank.device.type == "cpu")
    for document in manifest.documents:
        info = document.info
        text = None if document.text is None else _read_text(path / document.text.file)
        bank.document_registry.by_id[info.id] = Document(info.id, info.name, info.row, text, info.complete)
    bank.document_registry.next_id = manifest.next_document
    return bank


def _fill_row(row: Row, entry: RowEntry, files: Sequence[Path], mmap: bool) -> None:
    row.next_number = entry.next
    blocks = [block for file in files if len((block := _read_shard(file, row.layout, entry.first))["numbers"])]
    if not blocks:
        return
    mapped = [{name: block.pop(name) for name in HEAVY} for block in blocks] if mmap else []
    axes = {name: field.axis for name, field in {**row.layout.fields, **row.layout.event_fields}.items()}
    chunks = {name: torch.cat([block[name] for block in blocks], dim=axes[name]) for name in blocks[0]}
    row.restore(chunks, mapped, entry.next)
    if (row.num_chunks, row.num_tokens) != (entry.num_chunks, entry.num_tokens):
        why = f"it has {row.num_tokens} tokens instead of {entry.num_tokens}"
        raise BankCorruptError(damaged(files[0].parent, why))


def _read_shard(file: Path, layout: ChunkLayout, first: int) -> Chunks:
    """A shard's chunks from slot `first` on (older ones were evicted), still mapped from the file."""
    try:
        with safe_open(file, framework="pt") as shard:
            fields = {**layout.fields, **layout.event_fields}
            tensors = {name: shard.get_tensor(name) for name in fields}
    except (SafetensorError, OSError) as error:
        raise BankCorruptError(damaged(file, str(error))) from error
    gone = {False: int((tensors["numbers"] < first).sum())}
    if layout.event_fields:
        gone[True] = int((tensors["starts"] < first).sum())
    for name, field in fields.items():
        tensor, evicted = tensors[name], gone[name in layout.event_fields]
        shape = (*tensor.shape[: field.axis], *tensor.shape[field.axis + 1 :])
        if shape != field.before + field.after or tensor.dtype != field.dtype:
            raise BankCorruptError(damaged(file, f"its {name} do not have the shape or dtype of this bank"))
        tensors[name] = tensor.narrow(field.axis, evicted, tensor.shape[field.axis] - evicted)
    return tensors


def _read_text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8", "surrogatepass")
    except (OSError, UnicodeDecodeError) as error:
        raise BankCorruptError(damaged(file, str(error))) from error
