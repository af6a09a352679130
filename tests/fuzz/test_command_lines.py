"""Whatever is given, a command ends by itself with 0, 1 or 2, says why in one line, and harms no file of others."""

from __future__ import annotations

import io
import os
import random
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from command_lines import Line, add_links, draw, make_folder
from time_limit import TookTooLong, time_limit

from ltm.backbone import load_backbone
from ltm.cli import main
from ltm.console import _HIDDEN
from ltm.methods import create_method

FAST, NIGHTLY, SEED = 60, 2000, 17
SECONDS = 60
"""Much longer than any of these commands takes; what is still running then hangs."""
STDIN = {
    "empty": b"",
    "text": b"Call me Ishmael. The whale is white.\n" * 4,
    "questions": b"Who?\n/why\n/what\n\n/forget\nWhere?\n/quit\n",
    "bytes": b"caf\xe9 \xff\xfe\n",
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
ELSEWHERE: list[str] = []
"""Files that were opened for writing outside the folder of a command line; filled by `_watch`."""
_inside: Path | None = None


class BrokenOutput(io.TextIOWrapper):
    """A pipe whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self) -> None:
        pass


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _inside is None or event not in ("open", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate"):
        return
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
        return
    path = arguments[0]
    if isinstance(path, (str, bytes)) and not _may_be_written(os.path.abspath(os.fsdecode(path))):
        ELSEWHERE.append(f"{event} {path!r}")


def _may_be_written(path: str) -> bool:
    caches = (*map(os.path.expanduser, ("~/.cache", "~/.config")), "/dev/", "/proc/", "/tmp/torch", "/tmp/rust_")
    return path.startswith((str(_inside), *caches)) or "__pycache__" in path or path == "/dev"


sys.addaudithook(_watch)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that each command line gets a copy of."""
    folder = tmp_path_factory.mktemp("fuzz")
    sidenet = tmp_path_factory.mktemp("sidenet") / "sidenet"
    sizes = {"reduction_factor": 2, "chunk_size": 4, "retrieved_tokens": 8, "segment_size": 32, "start": "paper"}
    create_method("longmem", load_backbone("tiny-llama"), **sizes).save_pretrained(sidenet)
    make_folder(folder, sidenet, lambda *arguments: main([str(argument) for argument in arguments]))
    return folder


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes long by design is made short."""
    import ltm.cli.demo_steps
    import ltm.data.pipes

    monkeypatch.setattr(ltm.data.pipes, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(ltm.cli.demo_steps, "LEAST_TOKENS", 300)
    monkeypatch.setattr(ltm.cli.demo_steps, "HELD_OUT_TOKENS", 60)
    monkeypatch.setattr(ltm.cli.demo_steps, "NEW_TOKENS", 2)


def _run(line: Line, folder: Path) -> tuple[int | str, str, str]:
    """Exit code, or what went wrong; stdout and stderr."""
    global _inside
    err = io.StringIO()
    kind, encoding = (BrokenOutput, "utf-8") if line.stdout == "broken" else (io.TextIOWrapper, line.stdout)
    out = None if line.stdout == "closed" else kind(io.BytesIO(), encoding, newline="")
    stdin = None if line.stdin == "closed" else io.TextIOWrapper(io.BytesIO(STDIN[line.stdin]))
    kept, here = (sys.stdin, sys.stdout, sys.stderr), os.getcwd()
    (sys.stdin, sys.stdout, sys.stderr), _inside = (stdin, out, err), folder  # type: ignore[assignment]
    os.chdir(folder)
    try:
        with time_limit(SECONDS):
            code: int | str = main(line.arguments)
    except TookTooLong:
        code = "took too long: " + " <- ".join(traceback.format_exc().splitlines()[-7:-1])
    except BaseException:
        code = traceback.format_exc()
    finally:
        os.chdir(here)
        (sys.stdin, sys.stdout, sys.stderr), _inside = kept, None
    text = "" if out is None else out.buffer.getvalue().decode(out.encoding)  # type: ignore[attr-defined]
    return code, text, err.getvalue()


def _faults(line: Line, folder: Path, template: Path) -> list[str]:
    """What is wrong with how a command line ended; [] where all is well."""
    ELSEWHERE.clear()
    code, out, err = _run(line, folder)
    faults = [] if code in (0, 1, 2) else [f"ended with {code}"]
    if code == 2 and not (err.splitlines() and err.splitlines()[-1].startswith("ltm: ")):
        faults.append(f"exit code 2 without a word: {err[-300:]!r}")
    if "Traceback" in err:
        faults.append(f"a traceback on stderr: {err[-1500:]}")
    orders = [sign for sign in _HIDDEN.findall(out + err) if sign not in "\n\t"]
    faults += [f"sent {sorted(set(orders))}"] if orders else []
    faults += [f"wrote elsewhere: {path}" for path in ELSEWHERE]
    mine = {file.name: file.read_text() for file in (folder / "user").iterdir()}
    faults += [] if mine == dict.fromkeys(os.listdir(template / "user"), "mine\n") else [f"user's files: {mine}"]
    kept = ("moby.txt", "odd.jsonl", "[b].txt", "binary.txt", "page.html")
    faults += [f"{name} is another" for name in kept if (folder / name).read_bytes() != (template / name).read_bytes()]
    return faults


def _fuzz(template: Path, folder: Path, numbers: range) -> list[str]:
    found = []
    for number in numbers:
        line = draw(random.Random(f"{SEED}/{number}"))
        shutil.copytree(template, folder)
        add_links(folder)
        faults = _faults(line, folder, template)
        found += [f"{number}: {line}\n    {fault}" for fault in faults]
        shutil.rmtree(folder)
    return found


pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="pipes with names, and an alarm"),
    pytest.mark.usefixtures("small_steps"),
]


def test_sixty_lines(template: Path, tmp_path: Path) -> None:
    found = _fuzz(template, tmp_path / "here", range(FAST))
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_two_thousand_lines(template: Path, tmp_path: Path) -> None:
    found = _fuzz(template, tmp_path / "here", range(FAST, NIGHTLY))
    assert not found, f"{len(found)} faults\n" + "\n".join(found)
