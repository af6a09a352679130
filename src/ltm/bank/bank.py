"""Bank: where the past lives. Position-free keys, values, token ids and their sources; token-to-chunk retrieval."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ltm.bank.disk.absence import check_long_enough, places_of_text
from ltm.bank.disk.loading import load_bank
from ltm.bank.disk.manifest import Manifest
from ltm.bank.disk.manifest_file import has_bank, read_manifest
from ltm.bank.disk.merging import merge_banks
from ltm.bank.disk.saving import save_bank
from ltm.bank.reading import ReadableBank
from ltm.bank.undo import undone_on_failure
from ltm.lasting import lasting_tensors

if TYPE_CHECKING:
    from ltm.backbone.fingerprint import Fingerprint


class Bank(ReadableBank):
    """Memory for `num_rows` pasts that never see each other, each within the config's budget.

    Keys are *position-free* (pre-RoPE): as the layer computes them, before rotary embedding turns them by their place,
    so that a key that was written at any place can be asked for from any other.

    num_rows: 0 where the first read decides, by `begin`. num_kv_heads, head_dim: of the backbone; layers: backbone
    layers whose keys and values are kept, () where token ids are all; dtype, device: of keys and values (token ids and
    spans stay on the host). fingerprint: the backbone's identity (or its plain values), stored and checked by `load`;
    backbone: the name it was loaded by. `extra` is a dict of plain JSON values that is saved as well. key_center: about
    the mean of the backbone's keys, float32 [layers, kv_heads, head_dim]; keys that are quantised are nearer to the
    truth with it, and it must not depend on what is remembered.
    Raises ConfigError where the byte budget holds no chunk, a size is less than 1, or a storage does not fit.

    >>> bank = Bank(BankConfig(), num_rows=1, num_kv_heads=3, head_dim=64, layers=(23,))  # doctest: +SKIP
    >>> bank.write(keys, values, token_ids)  # doctest: +SKIP
    >>> keys, values, mask, hits = bank.retrieve(queries, top_k=16)  # doctest: +SKIP
    """

    @property
    def bank(self) -> Bank:
        """Itself: the bank of this memory."""
        return self

    def undone_on_failure(self) -> AbstractContextManager[None]:
        """A block after which the bank is as it was before, if it ends by an exception; see `ltm.bank.undo`.

        >>> with bank.undone_on_failure(): bank.write(keys, values, token_ids)  # doctest: +SKIP
        """
        return undone_on_failure(self)

    @lasting_tensors()
    @torch.no_grad()
    def merge(self, other: Bank) -> list[str]:
        """Add all that another bank of the same backbone holds, row by row, after what is here; it stays as it is.

        Its documents get new ids, its chunks new slots; what it stores in another way is decoded and encoded anew.
        Documents that are here already, text for text, are passed over: returns their names. Raises
        BankMismatchError where the two cannot be one, BankError where a name stands for different texts.
        """
        return merge_banks(self, other)

    def save(self, path: str | Path, *, overwrite: bool = False, compact: bool = False) -> None:
        """Write the bank to a directory; saved there before, only what is new is written, as a new shard.

        Whatever happens on the way (killed, disk full), the directory holds the state of the last save that was
        complete. What was deleted is gone from the disk when this returns; a shard of which a part is evicted stays
        until all of it is, or with compact: every shard is then written anew, few and without anything but what is
        remembered. overwrite: replace another bank, or one that was changed by another process. Raises BankError where
        something else is there, another process writes there, or the disk refuses.
        """
        save_bank(self, Path(path), overwrite, compact)

    @classmethod
    @lasting_tensors()
    def load(
        cls,
        path: str | Path,
        *,
        fingerprint: Fingerprint | None = None,
        device: torch.device | str | None = None,
        mmap: bool = True,
        verify: bool | None = None,
    ) -> Bank:
        """Open a saved bank.

        fingerprint: of the backbone it is for; BankMismatchError says what differs. device: where keys and values go
        (None: the CPU). mmap: leave keys and values in their files until they are used (CPU only); a row's come into
        memory when it is first written to. verify: compare checksums too (a second for each GB); None: for banks up to
        512 MB. Sizes are always checked; BankCorruptError names the file that is damaged.
        """
        return load_bank(cls, Path(path), fingerprint, device, mmap, verify)

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether there is a bank at a path, damaged or not."""
        return has_bank(path)

    @staticmethod
    def read_manifest(path: str | Path) -> Manifest:
        """What a saved bank holds (documents, sizes, backbone), without opening it."""
        return read_manifest(path)

    @classmethod
    def verify(cls, path: str | Path) -> Manifest:
        """Compare every file of a saved bank with its checksum, and what it holds with the manifest; BankCorruptError
        names the one that is damaged."""
        cls.load(path, verify=True)
        return read_manifest(path)

    @classmethod
    def find_text(cls, path: str | Path, text: str, tokenizer: Any = None) -> list[str]:
        """Every place of a saved bank where a text is found, in what it holds and in the bytes of all files; none: it
        is not there. tokenizer: looks at remembered tokens too. Raises BankError for a text too short to tell. See
        `ltm.bank.disk.absence`."""
        check_long_enough(text)
        return places_of_text(cls.load(path, verify=True), Path(path), text, tokenizer)
