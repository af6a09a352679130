"""Banks changed in every way that a disk, an editor or a hostile sender could: each change from a seed."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from resigned import read_values, shard_entries, sign_shard, write_values
from safetensors.torch import load, save

ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    7,
    255,
    2**20,
    2**31,
    2**53,
    2**63,
    2**64,
    -(2**63),
    10**300,
    10**4000,
]
ODD += [
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "a",
    "\0",
    "../../mine",
    "/dev/zero",
    "manifest.json",
    "x" * 70_000,
]
ODD += [
    "\ud800",
    "\u202e\x1b[31m",
    "float32",
    "int4",
    "derived",
    "faiss",
    [],
    [[]],
    [1],
    ["a"],
    {},
    {"a": 1},
    [None] * 50,
]
NAMES = (".lock", ".writer.json", "manifest.json", "shards", "documents")


def mutate(path: Path, outside: Path, chance: random.Random) -> bool:
    """One change of one kind; returns whether checksums were made to agree with it again."""
    kinds: list[Callable[..., bool]] = [change_bytes, change_bytes, put_special, change_values, change_values]
    kinds += [change_header, change_numbers]
    return chance.choice(kinds)(path, outside, chance)


def files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def change_bytes(path: Path, outside: Path, chance: random.Random) -> bool:
    """Flipped, cut off, longer, zeroed, swapped with another file, empty or gone."""
    file = chance.choice([file for file in files_of(path) if file.name != ".lock"])
    content = bytearray(file.read_bytes())
    place = chance.randrange(len(content) + 1)
    kind = chance.choice(["flip", "cut", "insert", "zero", "swap", "remove", "double"])
    if kind == "flip":
        for _ in range(chance.choice([1, 1, 3])):
            content[chance.randrange(len(content))] ^= chance.randrange(1, 256)
    elif kind == "cut":
        del content[place:]
    elif kind == "insert":
        content[place:place] = chance.randbytes(chance.choice([1, 8, 4096]))
    elif kind == "zero":
        content[place:] = bytes(len(content) - place)
    elif kind == "swap":
        content = bytearray(chance.choice(files_of(path)).read_bytes())
    elif kind == "double":
        content = content * 2
    file.write_bytes(content)
    if kind == "remove":
        file.unlink()
    return False


def put_special(path: Path, outside: Path, chance: random.Random) -> bool:
    """A link, a pipe, a device, a directory or a socket's like in the place of a file or a folder of the bank."""
    file = chance.choice([*files_of(path), *(path / name for name in NAMES)])
    kept = outside / f"moved-{file.name}"
    if os.path.lexists(file):
        shutil.move(file, kept)
    kind = chance.choice(["there", "mine", "nowhere", "itself", "folder", "pipe", "device", "directory", "hard link"])
    targets = {
        "there": kept,
        "mine": outside / "mine",
        "nowhere": outside / "nothing",
        "itself": file,
        "folder": outside,
    }
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "directory":
        file.mkdir()
    elif kind == "hard link":
        os.link(outside / "mine", file)
    elif kind == "device" and os.geteuid() == 0:
        try:
            os.mknod(file, 0o020644, os.makedev(1, 5))  # /dev/zero
        except OSError:
            file.symlink_to("/dev/zero")
    else:
        file.symlink_to(targets.get(kind, Path("/dev/zero")))
    return False


def places_in(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a JSON value, by the keys that lead there."""
    yield way
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places_in(inner, (*way, key))


def change_values(path: Path, outside: Path, chance: random.Random) -> bool:
    """Values of the manifest and of its journal, with checksums that are right."""
    values = read_values(path)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        change_one(values, chance)
    write_values(path, values)
    return True


def change_one(values: Any, chance: random.Random) -> None:
    """Replaced by something odd, a little more or less, gone, doubled, wrapped, or another of its kind."""
    part = values[chance.choice(sorted(values))]
    places = [way for way in places_in(part) if way]
    if not places:
        return
    *way, last = chance.choice(places)
    for key in way:
        part = part[key]
    kind = chance.choice(["odd", "odd", "odd", "near", "gone", "more", "nested", "many", "other"])
    before = part[last]
    if kind == "near" and isinstance(before, int):
        part[last] = before + chance.choice([-1, 1, 2, 1000])
    elif kind == "gone":
        del part[last]
    elif kind == "more" and isinstance(part, list):
        part.append(before)
    elif kind == "more" and isinstance(part, dict):
        part[f"{last}2"] = before
    elif kind == "nested":
        part[last] = nested(chance.choice([1, 3, 200, 400]), before)
    elif kind == "many" and isinstance(before, list):
        part[last] = before * chance.choice([0, 2, 50])
    elif kind == "other" and isinstance(part, dict):
        part[last] = part[chance.choice(sorted(part))]
    else:
        part[last] = chance.choice(ODD)


def nested(depth: int, value: Any) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def change_header(path: Path, outside: Path, chance: random.Random) -> bool:
    """The header of a shard: names, types, shapes, offsets, or its length; with the right checksums."""
    values = read_values(path)
    entry = chance.choice(shard_entries(values))
    content = (path / entry["file"]).read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    kind = chance.choice(["values", "values", "values", "depth", "length", "bytes"])
    if kind == "values":
        change_one({"header": header}, chance)
    text = json.dumps(header)
    if kind == "depth":
        depth = chance.choice([100, 5000, 60_000])
        text = text[:-1] + ',"deep":' + "[" * depth + "]" * depth + "}"
    raw = bytearray(text.encode("utf-8", "surrogatepass"))
    if kind == "bytes":
        raw[chance.randrange(len(raw))] = chance.randrange(256)
    length = chance.choice([0, 1, 2**31, 2**63, 2**64 - 1]) if kind == "length" else len(raw)
    sign_shard(path, entry, length.to_bytes(8, "little") + bytes(raw) + data)
    write_values(path, values)
    return True


def change_numbers(path: Path, outside: Path, chance: random.Random) -> bool:
    """Numbers in a shard, or bytes of a text, that no bank writes; with the right checksums."""
    values = read_values(path)
    entry = chance.choice(shard_entries(values))
    tensors = load((path / entry["file"]).read_bytes())
    name = chance.choice(sorted(tensors))
    flat = tensors[name].view(-1)
    if not flat.numel():
        return True
    odd = (
        [float("nan"), float("inf"), -1e30]
        if flat.is_floating_point()
        else [0, 1, 127, 255 if flat.itemsize == 1 else -1]
    )
    if flat.itemsize > 2 and not flat.is_floating_point():
        odd += [-(2**31), 2**31 - 1, 1000]
    flat[chance.randrange(flat.numel())] = chance.choice(odd)
    sign_shard(path, entry, save(tensors))
    write_values(path, values)
    return True
