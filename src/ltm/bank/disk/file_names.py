"""Names of the files in a bank's directory."""

from __future__ import annotations

import re

MANIFEST = "manifest.json"
SHARDS, TEXTS = "shards", "documents"
PASSAGES = "passages"
"""Beside the bank: passages of its texts that `ltm.text.recall` finds again, made of them and of nothing else."""
LOCK, HOLDER = ".lock", ".writer.json"
"""Files of whoever writes; see `ltm.bank.disk.lock`."""
SHARD_NAME = re.compile(rf"{SHARDS}/\d+-\d+-\d+-[0-9a-f]{{8}}\.safetensors")
TEXT_NAME = re.compile(rf"{TEXTS}/\d+-[0-9a-f]{{8}}\.txt")
JOURNAL_NAME = re.compile(r"journal-[0-9a-f]{8}\.jsonl")
PARTIAL_NAME = re.compile(rf"\.{re.escape(MANIFEST)}\.[0-9a-f]{{8}}")
"""A manifest that is being written, before it takes the place of the other."""


def is_bank_file(name: str) -> bool:
    """Whether a save makes files of this name beside the manifest; name: relative to the bank, with slashes."""
    return any(pattern.fullmatch(name) for pattern in (SHARD_NAME, TEXT_NAME, JOURNAL_NAME, PARTIAL_NAME))
