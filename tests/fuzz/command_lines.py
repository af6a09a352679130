"""Command lines from a seeded grammar: every command and option, with values that fit, and with values that nobody
should give; and the folder they are run in."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

WORDS = [
    "Who is white?", "Call me Ishmael", "a", "index.html", "--", "-", "[/INST]", "\x1b[31mred", "漢字 👍",
    "caf\udce9", "half \ud83d", "\u202eabc", "x" * 3000, "", " ", "two\nlines", "{{question}}", "%s",
    "<|endoftext|>",
]  # fmt: skip
WHOLE = [
    "1", "2", "3", "64", "0", "-1", str(10**12), str(10**21), "-" + str(10**21), "nan", "1.5", "abc", "none",
    "", "0x10", "٣", "1_0", "9" * 5000, "2147483648", "9223372036854775808",
]  # fmt: skip
NUMBER = [
    "0", "1", "0.7", "1.1", "-1", "nan", "inf", "-inf", "1e-320", "1e400", "1e308", "abc", "", "none", "0,5",
]  # fmt: skip
STORAGE = [
    "float32", "float16", "bfloat16", "int8", "int4", "derived", "int5", "", "INT8", "[b]",
]  # fmt: skip
DEVICE = [
    "cpu", "mps", "meta", "cuda", "cuda:99", "cpu:7", "toaster", "", "xpu", "\x1b",
]  # fmt: skip
BACKBONE = [
    "tiny-llama", "tiny-llama", "tiny-qwen3", "tiny-lama", "nowhere/none", "/", "user", "user/notes.txt",
    "loop", "fifo", "", "a\0b", "caf\udce9", "tiny-gpt2", "../..", "bank",
]  # fmt: skip
METHOD = [
    "em_llm", "em_llm", "longmem", "longmem", "memorizing", "window", "full", "sinks", "quest", "ngram",
    "longmen", "", "[x]", "em_llm,window", "\x1b",
]  # fmt: skip
PATHS = [
    "bank", "side.bank", "bank/manifest.json", "bank/shards", "moby.txt", "odd.jsonl", "page.html",
    "texts.jsonl", "user", "user/notes.txt", "user/page.html", "user/data.json", "user/results.json", "empty",
    "empty.txt", "binary.txt", "loop", "dangling", "link.txt", "linked.bank", "fifo", "nowhere",
    "nowhere/deep/er", "new", "new.html", "new.md", "new.jsonl", "-", "/dev/null", "/dev/stdin", "/dev/zero",
    "/dev/fd/0", ".", "..", "/", "", "caf\udce9.txt", "x" * 300, "a\0b", "\x1b[31m", "sidenet", "results", "~",
    "~nobody/x", "two\nlines", "[b].txt", "broken.bank",
]  # fmt: skip

Draw = Callable[[random.Random], str]


def one_of(values: Sequence[str], fitting: int = 1) -> Draw:
    """Three times of four one of the first `fitting`, else any."""
    return lambda rng: rng.choice(values[:fitting] if rng.random() < 0.75 else values)


def any_of(*first: str) -> Draw:
    """One of these four times of five, else any path."""
    return lambda rng: rng.choice(first) if rng.random() < 0.8 else rng.choice(PATHS)


BANK, TEXT, NEW = any_of("bank", "bank", "side.bank"), any_of("moby.txt", "odd.jsonl"), any_of("new", "bank")
OPENING = {
    "--backbone": one_of(BACKBONE, 2),
    "--sidenet": any_of("sidenet"),
    "--method": one_of(METHOD, 4),
    "--device": one_of(DEVICE),
}
STORAGES = {name: one_of(STORAGE, 5) for name in ("--key-storage", "--value-storage", "--search-storage")}
SAMPLING = {
    "--max-tokens": one_of(["2", "1", *WHOLE[4:]], 2),
    "--temperature": one_of(NUMBER, 4),
    "--repetition-penalty": one_of(NUMBER, 4),
    "--seed": one_of(WHOLE, 4),
}


def FLAG(rng: random.Random) -> str:  # noqa: N802
    """An option without a value."""
    return ""


@dataclass(frozen=True)
class Command:
    """words: how it begins; places: its arguments; options: by name; always: what keeps it short."""

    words: tuple[str, ...]
    places: tuple[Draw, ...] = ()
    options: dict[str, Draw] | None = None
    always: tuple[tuple[str, str], ...] = ()
    weight: int = 3


ANSWER = (("--max-tokens", "2"),)
TINY = ("--backbone", "tiny-llama")
TRAIN = {
    **{f"--{name}": one_of(WHOLE, 4) for name in ("segment-size", "batch-rows", "chunk-size", "memory-size", "seed")},
    **{
        f"--{name}": one_of(WHOLE, 4)
        for name in ("exercises", "log-every", "eval-every", "warmup-steps", "local-window")
    },
    **{f"--{name}": one_of(NUMBER, 4) for name in ("learning-rate", "pointer-trust", "weight-decay", "max-grad-norm")},
    "--validation": TEXT,
    "--start-from": any_of("sidenet"),
    "--schedule": one_of(WORDS, 4),
    "--train-only": one_of(WORDS, 4),
    "--max-document-tokens": one_of(WHOLE, 4),
    "--resume": FLAG,
    "--activation-checkpointing": FLAG,
}
COMMANDS = [
    Command(
        ("read",),
        (TEXT,),
        {
            **OPENING,
            **STORAGES,
            "-o": NEW,
            "--memory-size": one_of(WHOLE, 4),
            "--name": one_of(WORDS, 4),
            "--json": FLAG,
        },
        (("-o", "new"), TINY),
        8,
    ),
    Command(
        ("ask",),
        (BANK, one_of(WORDS, 4)),
        {
            **OPENING,
            **SAMPLING,
            "--trace": FLAG,
            "--page": any_of("new.html", "page.html"),
            "--continue": FLAG,
            "--json": FLAG,
        },
        ANSWER,
        10,
    ),
    Command(
        ("ask",), (BANK, one_of(WORDS, 4), FLAG, any_of("new.html", "page.html")), {**OPENING, **SAMPLING}, ANSWER, 3
    ),
    Command(("chat",), (BANK,), {**OPENING, **SAMPLING, "--trace": FLAG, "--no-keep": FLAG}, ANSWER, 4),
    Command(
        ("train",),
        (),
        {**OPENING, **TRAIN, "--data": TEXT, "--out": NEW, "--json": FLAG},
        (("--data", "moby.txt"), ("--out", "new"), TINY, ("--max-steps", "1"), ("--segment-size", "32")),
        6,
    ),
    Command(
        ("eval", "perplexity"),
        (),
        {
            **OPENING,
            "--data": TEXT,
            "--window": one_of(["32", *WHOLE]),
            "--stride": one_of(WHOLE, 4),
            "--max-documents": one_of(WHOLE, 4),
            "--max-tokens": one_of(["64", *WHOLE]),
            "--by-position": FLAG,
            "--json": FLAG,
        },
        (("--data", "moby.txt"), ("--max-tokens", "64"), TINY, ("--window", "32"), ("--method", "window")),
    ),
    Command(
        ("bench", "run"),
        (),
        {
            "--out": any_of("results", "new"),
            "--tasks": one_of(["long_text", "recall", "x", "", "[b]"]),
            "--methods": one_of(
                [
                    "window",
                    "em_llm",
                    "window:local_window=8",
                    "longmem@sidenet as \x1b[b]",
                    "window:local_window=nan",
                    "window,window",
                    "a,b",
                    ",",
                    "x:y=",
                    ":",
                    f"window:local_window={10**21}",
                ]
            ),
            "--set": one_of(
                [
                    "long_text.documents=1",
                    "long_text.documents=-1",
                    "x",
                    "=",
                    "long_text.x=1",
                    f"long_text.max_tokens={10**21}",
                    "long_text.kinds=[b],\x1b",
                ]
            ),
            "--data": any_of("data"),
            "--window": one_of(["32", *WHOLE]),
            "--stride": one_of(WHOLE, 4),
            "--budget": one_of(["64", "64MB", "0", "-1", "1e9", "64 XB", str(10**30)]),
            "--dtype": one_of(["float32", "auto", "int4", ""]),
            "--seed": one_of(WHOLE, 4),
            "--device": one_of(DEVICE),
            "--restart": FLAG,
            "--json": FLAG,
        },
        (
            ("--out", "results"),
            ("--data", "data"),
            TINY,
            ("--window", "32"),
            ("--methods", "window"),
            ("--tasks", "long_text"),
            ("--set", "long_text.kinds=books"),
            ("--set", "long_text.max_tokens=64"),
        ),
    ),
    Command(
        ("bench", "report"),
        (any_of("results", "empty"),),
        {"--out": any_of("new.md", "user/page.html"), "--title": one_of(WORDS, 4), "--json": FLAG},
        (("--out", "new.md"),),
    ),
    Command(("bench", "list"), (), {"--json": FLAG}, weight=1),
    Command(("bank", "info"), (BANK,), {"--json": FLAG}),
    Command(("bank", "list"), (BANK,), {"--json": FLAG}),
    Command(
        ("bank", "delete"),
        (BANK, one_of(["odd name \x1b[31m", "moby.txt", "0", "1", *WORDS], 4)),
        {"--json": FLAG},
        weight=4,
    ),
    Command(
        ("bank", "verify"),
        (BANK,),
        {**OPENING, "--absent": one_of(WORDS, 4), "--no-model": FLAG, "--json": FLAG},
        weight=5,
    ),
    Command(("bank", "compact"), (BANK,), {"--json": FLAG}, weight=2),
    Command(
        ("bank", "merge"),
        (BANK, BANK),
        {"-o": NEW, "--memory-size": one_of(WHOLE, 4), "--json": FLAG},
        (("-o", "new"),),
    ),
    Command(
        ("bank", "export"),
        (BANK,),
        {"-o": any_of("new.jsonl", "texts.jsonl", "user/notes.txt"), "--json": FLAG},
        weight=4,
    ),
    Command(
        ("bank", "import"),
        (any_of("texts.jsonl", "odd.jsonl"),),
        {**OPENING, **STORAGES, "-o": NEW, "--memory-size": one_of(WHOLE, 4), "--json": FLAG},
        (("-o", "new"), TINY),
        4,
    ),
    Command(
        ("bank", "rebuild"),
        (BANK,),
        {**OPENING, **STORAGES, "-o": NEW, "--memory-size": one_of(WHOLE, 4), "--json": FLAG},
        (("-o", "new"), TINY),
        4,
    ),
    Command(("methods",), (), {"--json": FLAG}, weight=1),
    Command(
        ("demo",),
        (),
        {
            "--backbone": one_of(BACKBONE, 2),
            "--sidenet": any_of("sidenet"),
            "--tokens": one_of(WHOLE, 4),
            "--window": one_of(["32", *WHOLE]),
            "--json": FLAG,
        },
        (TINY, ("--tokens", "1")),
        1,
    ),
    Command(("new",), (one_of(["attention", *WORDS]), one_of(["mine", "longmem", *WORDS], 2)), weight=1),
    Command((), (one_of(["frob", "--version", "--help", "bank", "", "\x1b[31m", "bench frob", "--frob"]),), weight=1),
]
STDIN = ["empty", "text", "questions", "bytes", "closed"]
STDOUT = ["utf-8", "utf-8", "ascii", "cp1252", "closed", "broken"]


@dataclass(frozen=True)
class Line:
    """What is run: arguments, what stdin gives, and what kind of stdout there is."""

    arguments: list[str]
    stdin: str
    stdout: str


def draw(rng: random.Random) -> Line:
    """One command line."""
    command = rng.choices(COMMANDS, [one.weight for one in COMMANDS])[0]
    places = [place(rng) if place is not FLAG else "--trace" for place in command.places]
    places = places[: rng.randrange(len(places) + 1)] if rng.random() < 0.03 else places
    options = command.options or {}
    chosen = rng.sample(list(options), min(len(options), rng.choice([0, 0, 1, 1, 2, 3])))
    given = [[name] if options[name] is FLAG else _joined(rng, name, options[name](rng)) for name in chosen]
    given += [[name, value] for name, value in command.always if name not in chosen and rng.random() < 0.97]
    if options.get("--method") and "--method" not in chosen and rng.random() < 0.8:
        given.append(["--method", "em_llm" if command.words[0] not in ("train", "eval") else "longmem"])
    if rng.random() < 0.02:
        places.append(rng.choice(WORDS))
    rng.shuffle(given)
    arguments = [*command.words, *places, *(word for option in given for word in option)]
    return Line(arguments, rng.choice(STDIN), rng.choice(STDOUT))


def _joined(rng: random.Random, name: str, value: str) -> list[str]:
    return [f"{name}={value}"] if name.startswith("--") and rng.random() < 0.2 else [name, value]


def make_folder(folder: Path, sidenet: Path, run: Callable[..., int]) -> None:
    """Everything that PATHS names, made with `run` where it is a memory."""
    story = "Call me Ishmael. Some years ago I went to sea. The whale is white.\n" * 4
    (folder / "user").mkdir()
    for name in ("notes.txt", "page.html", "data.json", "results.json"):
        (folder / "user" / name).write_text("mine\n")
    (folder / "moby.txt").write_text(story)
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text(story)
    (folder / "[b].txt").write_text(story)
    (folder / "page.html").write_text(f"<html><body><p>{story}</p></body></html>")
    lines = [{"id": "odd name \x1b[31m", "text": story}, {"id": "[/INST]\n", "text": story}, {"text": "short"}]
    (folder / "odd.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "texts.jsonl").write_text(json.dumps({"id": "note", "text": story, "ranges": [[0, 40]]}) + "\n")
    (folder / "empty").mkdir()
    (folder / "empty.txt").write_text("")
    (folder / "binary.txt").write_bytes(bytes(range(256)))
    (folder / "data" / "books").mkdir(parents=True)
    (folder / "data" / "books" / "test.jsonl").write_text(json.dumps({"id": "a", "text": story}) + "\n")
    shutil.copytree(sidenet, folder / "sidenet")
    tiny = ("--backbone", "tiny-llama")
    assert (
        run("read", folder / "moby.txt", folder / "odd.jsonl", "-o", folder / "bank", *tiny, "--method", "em_llm") == 0
    )
    assert run("read", folder / "moby.txt", "-o", folder / "side.bank", *tiny, "--sidenet", sidenet) == 0
    shutil.copytree(folder / "bank", folder / "broken.bank")
    (folder / "broken.bank" / "manifest.json").write_text('{"format": 1}')


def add_links(folder: Path) -> None:
    """What no copy of a folder takes along as it is."""
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere-at-all")
    (folder / "link.txt").symlink_to("user/notes.txt")
    (folder / "linked.bank").symlink_to("bank")
    os.mkfifo(folder / "fifo")
