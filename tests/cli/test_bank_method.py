"""A memory knows its method, backbone and trained weights: the next command needs none of them."""

from __future__ import annotations

import shlex
import shutil

import pytest
from conftest import one_line

from ltm.bank import Bank
from ltm.errors import LtmError
from ltm.text.session import Session


@pytest.mark.parametrize("method", ["em_llm", "quest"])
def test_the_next_step_that_reading_prints_works(run, book, tmp_path, method):
    path = tmp_path / "a.bank"
    read = run("read", book, "-o", path, "--backbone", "tiny-llama", "--method", method)
    assert read.code == 0, read.err
    (command,) = (line for line in read.err.splitlines() if line.startswith("next: ltm "))
    asked = run(*shlex.split(command.removeprefix("next: ltm ")), "--max-tokens", 3)
    assert asked.code == 0, asked.err
    assert run("read", book, "-o", path).code == 0  # once more: the same method and backbone
    assert run("bank", "verify", path, "--absent", "never read by anyone").code == 0
    assert Session.open(path).method.name == method == Bank.load(path).method.name
    assert f'"method": "{method}"' in run("bank", "info", path, "--json").out


def test_an_option_that_contradicts_the_memory_is_one_line(run, book, tmp_path):
    path = tmp_path / "a.bank"
    assert run("read", book, "-o", path, "--backbone", "tiny-llama", "--method", "em_llm").code == 0
    for command in (("ask", path, "Who?"), ("read", book, "-o", path)):
        line = one_line(run(*command, "--method", "quest"))
        assert f"{path} was made by method em_llm; leave --method quest out" in line
        assert f"ltm bank rebuild {path} -o NEW --method quest" in line
    assert run("ask", path, "Who?", "--max-tokens", 2, "--method", "em_llm").code == 0
    assert run("bank", "rebuild", path, "-o", tmp_path / "b.bank", "--method", "quest").code == 0
    assert run("bank", "rebuild", path, "-o", tmp_path / "c.bank").code == 0
    assert [Bank.load(tmp_path / name).method.name for name in ("b.bank", "c.bank")] == ["quest", "em_llm"]


def test_the_trained_weights_are_found_again(run, bank, sidenet, tmp_path):
    """A memory that was read with --sidenet."""
    assert run("ask", bank, "Who?", "--max-tokens", 2).code == 0
    assert Bank.load(bank).method.weights == str(sidenet.resolve())
    moved = tmp_path / "moved"
    shutil.copytree(sidenet, moved)
    other = Bank.load(bank)
    other.method = type(other.method)("longmem", other.method.options, str(tmp_path / "gone"))
    other.save(bank)
    line = one_line(run("ask", bank, "Who?"))
    assert "was read with the weights in" in line and line.endswith("give --sidenet")
    assert run("ask", bank, "Who?", "--max-tokens", 2, "--sidenet", moved).code == 0


def test_settings_that_shape_a_memory_are_taken_from_it(tmp_path):
    path = tmp_path / "a.bank"
    session = Session.open(path, "tiny-llama", "em_llm", max_event_size=16, local_window=128)
    session.read("Call me Ishmael. Some years ago I went to sea. " * 9, "moby")
    config = Session.open(path).method.method_config
    assert (config.max_event_size, config.local_window) == (16, 128)
    assert Session.open(path, local_window=64).method.method_config.local_window == 64
    with pytest.raises(LtmError, match="event_heads"):
        Session.open(path, representative="attended")


def test_a_memory_that_does_not_name_its_method_is_opened_as_before(run, bank, sidenet):
    old = Bank.load(bank)
    old.method = None
    old.save(bank)
    assert run("ask", bank, "Who?", "--max-tokens", 2, "--sidenet", sidenet).code == 0
    session = Session.open(bank, sidenet=sidenet)
    session.read("The whale is white. " * 5, "more")
    assert Bank.load(bank).method.name == "longmem"


def test_a_memory_beside_its_texts_is_not_read_into_itself(run, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "diary.txt").write_text("The treasure is buried under the oak. " * 3)
    (data / "log.txt").write_text("The whale is white. " * 3)
    command = ("read", data, "-o", data / "b.bank", "--backbone", "tiny-llama", "--method", "em_llm")
    assert run(*command).code == 0 and run(*command).code == 0
    assert [info.name for info in Bank.load(data / "b.bank").documents] == ["diary.txt", "log.txt"]
    assert run("bank", "delete", data / "b.bank", "diary.txt").code == 0
    found = run("bank", "verify", data / "b.bank", "--absent", "the treasure is buried", "--no-model")
    assert found.code == 0 and "holds nothing of this text" in found.err
