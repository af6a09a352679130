"""Manifests and journals that were changed by hand, with checksums that are right all the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ltm.bank.disk.manifest import checksum


def read_values(path: Path) -> dict[str, Any]:
    """{"manifest": its fields but the checksum, "journal": its lines as values}."""
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["checksum"]
    lines = (path / manifest["journal"]["file"]).read_bytes()[: manifest["journal"]["num_bytes"]].splitlines()
    return {"manifest": manifest, "journal": [json.loads(line) for line in lines]}


def write_values(path: Path, values: dict[str, Any]) -> None:
    """What `read_values` gave, after a change, back into the bank."""
    manifest, journal = values["manifest"], values["manifest"].get("journal")
    if isinstance(journal, dict) and "journal" in values and is_plain_name(journal.get("file")):
        content = "".join(json.dumps(line) + "\n" for line in values["journal"]).encode()
        (path / journal["file"]).write_bytes(content)
        before = (journal.get("num_bytes"), journal.get("sha256"))
        if all(type(value) is type(known) for value, known in zip(before, (0, ""), strict=True)):
            journal |= {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / "manifest.json").write_text(json.dumps({**manifest, "checksum": checksum(manifest)}))


def is_plain_name(name: Any) -> bool:
    return isinstance(name, str) and name.startswith("journal-") and "/" not in name and "\0" not in name


def shard_entries(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the journal, those that were not dropped."""
    dropped = {name for line in values["journal"] for name in line["dropped"]}
    return [shard for line in values["journal"] for shard in line["shards"] if shard["file"] not in dropped]


def sign_shard(path: Path, entry: dict[str, Any], content: bytes) -> None:
    """Other content for a shard, and its size and checksum into the entry."""
    (path / entry["file"]).write_bytes(content)
    entry |= {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
