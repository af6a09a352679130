"""EM-LLM from the command line: events of all layers in a memory on disk, in codes, merged, compacted, rebuilt."""

from __future__ import annotations

import pytest
from conftest import one_line

from ltm.bank import Bank
from ltm.bank.disk import plain_reader

EM_LLM = ("--method", "em_llm", "--backbone", "tiny-llama")
TALE = "Call me Ishmael. Some years ago I went to sea. The whale is white.\n" * 12


@pytest.fixture
def memory(run, tmp_path):
    """Reads a text into a memory of its own."""

    def read(name, text, *options):
        file = tmp_path / f"{name}.txt"
        file.write_text(text)
        bank = tmp_path / f"{name}.bank"
        done = run("read", file, "-o", bank, *EM_LLM, *options)
        assert done.code == 0, done.err
        return bank

    return read


def test_read_ask_merge_compact_and_rebuild(run, memory, tmp_path):
    tale = memory("tale", TALE, "--key-storage", "int8", "--value-storage", "int4")
    other = memory("other", "A ship sails. " * 20)
    asked = ("Who is white?", *EM_LLM, "--max-tokens", 3, "--trace", "--json")
    answer = run("ask", tale, *asked).json()
    assert len(answer["token_ids"]) == 3 and answer["passages"][0]["text"] in TALE
    assert run("bank", "merge", tale, other, "-o", tmp_path / "both.bank").code == 0
    both = Bank.load(tmp_path / "both.bank")
    sizes = [Bank.load(path).event_table(0).sizes.tolist() for path in (tale, other)]
    assert both.event_table(0).sizes.tolist() == sum(sizes, []) and both.config.key_storage == "int8"
    for command in (("delete", tmp_path / "both.bank", "tale.txt"), ("compact", tmp_path / "both.bank")):
        assert run("bank", *command).code == 0
    assert run("bank", "verify", tmp_path / "both.bank").code == 0
    row = plain_reader.read_bank(tmp_path / "both.bank").rows[0]
    assert row.sizes.tolist() == sizes[1] and int(row.counts.sum()) == len("A ship sails. " * 20)
    assert run("bank", "rebuild", tale, "-o", tmp_path / "again.bank", *EM_LLM).code == 0
    again = Bank.load(tmp_path / "again.bank")
    assert again.config.value_storage == "int4" and again.num_tokens() == len(TALE)
    assert run("ask", tmp_path / "again.bank", *asked).json()["token_ids"] == answer["token_ids"]


def test_what_em_llm_does_not_have_is_said_in_one_line(run, tmp_path):
    (tmp_path / "a.txt").write_text(TALE)
    done = run("read", tmp_path / "a.txt", "-o", tmp_path / "a.bank", *EM_LLM, "--search-storage", "int8")
    assert done.code == 2 and "search_storage" in one_line(done)
