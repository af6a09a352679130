"""Every example of README.md and docs/guide.md runs, shell and Python, in the order in which they stand there.

In the fast test a tiny model goes by the real one's name, and what takes hours is cut short (SHORTER); the slow one has
the real model. Examples are found by their form: lines that run `ltm` in indented or fenced blocks, and Python blocks.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ltm.backbone import Backbone
from ltm.backbone.tiny import build_tiny
from ltm.cli import main
from ltm.cli.reference_text import language_reference
from ltm.methods import create_method
from ltm.notes.encoder import HashEncoder

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": (2, 1), "docs/guide.md": (20, 3)}
"""With how many examples of shell and Python there are at least: fewer are written in a way that is not found here."""
SHORTER = {
    r"--max-minutes \S+": "--max-steps 1 --segment-size 32",
    r"--max-tokens 8192": "--max-tokens 200 --window 32",
    r"(ltm bench run) --tasks \S+": r"\1 --tasks long_text --data data --window 32 --set long_text.kinds=books "
    "--set long_text.max_tokens=64",
    r"ltm (ask|chat) ": r"ltm \1 --max-tokens 4 ",
}
SHORTER_REAL = {
    r"--max-minutes \S+": "--max-minutes 0.2 --segment-size 256",
    r"--max-tokens 8192": "--max-tokens 512",
    r"(ltm bench run) --tasks \S+": r"\1 --tasks long_text --data data --set long_text.kinds=books "
    "--set long_text.max_tokens=512",
}
STORY = "Call me Ishmael. Some years ago I went to sea. Queequeg was a harpooneer from Rokovoko.\n"


def shell_examples(text: str) -> list[tuple[int, str]]:
    """Line numbers and command lines."""
    found, fenced = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced and re.match(r"\s*```(sh|shell|bash|console)?\s*$", line) is not None
        elif (fenced or line.startswith("    ")) and re.match(r"(ltm|.*\|\s*ltm) ", line.strip().removeprefix("$ ")):
            found.append((number, line.strip().removeprefix("$ ")))
    return found


def python_examples(text: str) -> list[tuple[int, str]]:
    """Line numbers and programs."""
    blocks = re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, block.start(1)) + 1, block[1]) for block in blocks]


def run_shell(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """A command line, of which `cat FILE |` may be the beginning."""
    words = shlex.split(line, comments=True)
    given = b"Who is Queequeg?\n/why\n/quit\n"
    if "|" in words:
        assert words[0] == "cat" and words[2] == "|", f"only `cat FILE |` is known here: {line}"
        given, words = Path(words[1]).read_bytes(), words[3:]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    return main(words[1:])


def make_files(text: str) -> None:
    """The files that the examples name."""
    Path("moby.txt").write_text(text)
    Path("omoo.txt").write_text("Omoo: another text. " * 40)
    for folder in ("books", "dialogues", "manuals"):
        Path(folder).mkdir()
        Path(folder, "one.txt").write_text(text)
    Path("data", "books").mkdir(parents=True)
    Path("data", "books", "test.jsonl").write_text(json.dumps({"id": "one", "text": text}) + "\n")
    assert main(["read", "omoo.txt", "-o", "omoo.bank"]) == 0


def run_all(page: str, shorter: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    text = (ROOT / page).read_text(encoding="utf-8")
    shell, python = shell_examples(text), python_examples(text)
    least_shell, least_python = PAGES[page]
    assert len(shell) >= least_shell and len(python) >= least_python, f"{page}: the examples are not found"
    wrong = []
    for number, line in shell:
        for pattern, replacement in shorter.items():
            line = re.sub(pattern, replacement, line)
        capsys.readouterr()
        code = run_shell(line, monkeypatch)
        if code:
            wrong.append(f"{page}:{number}: {line}\n    exit code {code}: {capsys.readouterr().err.strip()[-300:]}")
    for number, program in python:
        try:
            exec(compile("\n" * (number - 1) + program, page, "exec"), {})
        except Exception as error:  # whatever it is, the page is wrong
            wrong.append(f"{page}:{number}: the Python example: {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def tiny_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """smollm2-135m is a tiny model here, with a SideNet that goes with it."""

    def load(name: str, *_: object) -> Backbone:
        model, tokenizer = build_tiny("tiny-llama")
        return Backbone(name, model, tokenizer)

    monkeypatch.setattr("ltm.backbone.loading._load_builtin", load)
    for place in ("ltm.notes.encoder", "ltm.text.means"):
        monkeypatch.setattr(f"{place}.load_encoder", lambda name: HashEncoder())
    path = tmp_path_factory.mktemp("shipped") / "longmem"
    sizes = {"chunk_size": 4, "retrieved_tokens": 8, "segment_size": 32}
    create_method("longmem", load("smollm2-135m"), **sizes).save_pretrained(path)
    monkeypatch.setattr(
        "ltm.methods.opening.shipped_weights", lambda name, method: path if method == "longmem" else None
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """In a folder of its own, where a server keeps its data, too, and ends as soon as it could begin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LTM_DATA_DIR", str(tmp_path / "served"))
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_run(page, here, tiny_by_its_name, monkeypatch, capsys):
    torch.manual_seed(0)
    make_files(STORY * 5)
    run_all(page, SHORTER, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_examples_run_with_the_real_model(page, here, monkeypatch, capsys):
    make_files(STORY + language_reference()[:6_000])
    run_all(page, SHORTER_REAL, monkeypatch, capsys)


def test_examples_are_found_in_every_form():
    blocks = ("```sh\n$ ltm ask b Q\n```", "```\ncat a | ltm ask - Q\n```", "```python\nltm = 1\n```", "`ltm x`")
    text = "\n\n".join(("    ltm read a -o b  # why", *blocks))
    assert [line for _, line in shell_examples(text)] == [
        "ltm read a -o b  # why",
        "ltm ask b Q",
        "cat a | ltm ask - Q",
    ]
    assert python_examples(text) == [(12, "ltm = 1\n")]


def test_swapped_arguments_are_told(tiny_backbone):
    import ltm

    backbone = tiny_backbone("tiny-llama")
    with pytest.raises(ltm.LtmError, match=r"name comes first, not Backbone: attach\('longmem', backbone\)"):
        ltm.attach(backbone, "longmem", reduction_factor=6)
    with pytest.raises(ltm.LtmError, match="Linear is not a backbone"):
        ltm.attach("longmem", torch.nn.Linear(1, 1))
