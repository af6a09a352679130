"""ltm bank verify --absent, compact, merge, export, import, rebuild; and a second `ltm read` at the same time."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import OPTIONS, one_line

from ltm.backbone import load_backbone
from ltm.bank import Bank
from ltm.bank.disk.lock import WriteLock
from ltm.methods import METHODS, create_method

SECRET = "Zanzibar 7741 opens the vault under the oak"


@pytest.fixture
def both(run, bank, sidenet, tmp_path):
    """The bank with a second document that is to be forgotten."""
    diary = tmp_path / "diary.txt"
    diary.write_text(f"Dear diary. {SECRET}. Nobody must know that {SECRET}.\n")
    assert run("read", diary, "-o", bank, "--sidenet", sidenet).code == 0
    return bank


def test_absence_is_proved_by_search_bytes_and_likelihood(run, both, sidenet):
    still = run("bank", "verify", "--absent", SECRET, both, "--sidenet", sidenet, "--json")
    facts = still.json()
    assert still.code == 1 and not facts["absent"]
    for part in (
        "the text of document 1 (diary.txt)",
        "the remembered tokens of row 0",
        "the bytes of",
        "token ids in",
    ):
        assert any(part in line for line in facts["found"])
    assert facts["likelihood"]["with_memory"] == pytest.approx(facts["likelihood"]["never_held"], rel=1e-4)  # in texts
    assert run("bank", "delete", both, "diary.txt").code == 0
    gone = run("bank", "verify", "--absent", SECRET, both, "--sidenet", sidenet, "--json")
    facts = gone.json()
    assert gone.code == 0 and facts["absent"] and facts["found"] == []
    assert abs(facts["likelihood"]["gain_per_token"]) < 1e-3
    words = run("bank", "verify", "--absent", SECRET, both, "--sidenet", sidenet)
    assert words.code == 0 and "holds nothing of this text" in words.err and "nats a token" in words.err
    quick = run("bank", "verify", "--absent", SECRET, both, "--no-model")
    assert quick.code == 0 and "not looked at" in quick.err
    assert "too short" in one_line(run("bank", "verify", "--absent", "a", both, "--no-model"))


def test_a_trace_that_only_the_keys_keep_is_seen_by_the_likelihood(run, both, sidenet):
    """The text is cut out of the document's text, but its tokens stay in memory: search finds them, the model too."""
    from ltm.text.forgetting import likelihood_of
    from ltm.text.session import Session

    session = Session.open(both, sidenet=sidenet)
    bank = session.method.bank
    before = likelihood_of(session, SECRET)
    assert bank is not None and before.with_memory < before.without  # it copies what it remembers
    document = bank.document_registry[1]
    document.text, spans = "Dear diary.", bank.rows[0].ring.buffers["spans"]
    spans.clamp_(max=len(document.text))
    kept = likelihood_of(session, SECRET)
    assert kept.with_memory == pytest.approx(before.with_memory) and not kept.is_forgotten
    assert session.method.bank is bank


@pytest.mark.parametrize("name", ["em_llm", "longmem", "ngram", "quest"])
def test_delete_says_what_is_left_behind(run, sidenet, tmp_path, name):
    """As the method's card has it, of the method that the bank was made with."""
    bank, text = tmp_path / "a.bank", tmp_path / "note.txt"
    text.write_text(f"One more thing: {SECRET}.\n")
    weights = ["--sidenet", sidenet] if METHODS[name].card.needs_training else []
    assert run("read", text, "-o", bank, "--backbone", "tiny-llama", "--method", name, *weights).code == 0
    copied = tmp_path / "b.bank"
    shutil.copytree(bank, copied)
    told, left = run("bank", "delete", bank, "note.txt"), METHODS[name].card.deletion
    assert told.code == 0 and told.err.startswith("removed note.txt")
    assert (left in " ".join(told.err.split())) if left else "rebuild" not in told.err
    assert run("bank", "delete", copied, "note.txt", "--json").json()["left_behind"] == left


def test_compact_merge_export_import(run, both, sidenet, tmp_path):
    before = run("bank", "info", both, "--json").json()
    small = run("bank", "compact", both, "--json").json()
    assert small["bytes"] < small["bytes_before"] and run("bank", "verify", both).code == 0
    assert run("bank", "info", both, "--json").json()["tokens"] == before["tokens"]
    other, merged = tmp_path / "other.bank", tmp_path / "merged.bank"
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"id": "note", "text": "One more thing.", "ranges": [[0, 8]]}) + "\n")
    made = run("bank", "import", texts, "-o", other, "--backbone", "tiny-llama", "--sidenet", sidenet, "--json").json()
    assert made["documents"] == 1 and made["tokens"] == 8
    found = run("bank", "merge", both, other, both, "-o", merged, "--json")
    assert found.json()["documents"] == ["moby.txt", "diary.txt", "note"] and "taken once" in found.err
    assert found.json()["tokens"] == before["tokens"] + 8
    assert "is there already" in one_line(run("bank", "merge", both, other, "-o", merged))
    run("bank", "export", merged, "-o", texts)
    lines = [json.loads(line) for line in texts.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["moby.txt", "diary.txt", "note"] and lines[2]["ranges"] == [[0, 8]]
    assert run("bank", "export", merged).out == texts.read_text()
    again = tmp_path / "again.bank"
    made = run("bank", "import", texts, "-o", again, "--backbone", "tiny-llama", "--sidenet", sidenet, "--json").json()
    assert made["tokens"] == before["tokens"] + 8
    asked = [
        run("ask", path, "Who?", "--sidenet", sidenet, "--max-tokens", 6, "--json").json() for path in (merged, again)
    ]
    assert asked[0]["text"] == asked[1]["text"]


def test_rebuilding_for_another_backbone(run, both, tmp_path):
    weights, new = tmp_path / "qwen", tmp_path / "new.bank"
    create_method("longmem", load_backbone("tiny-qwen3"), **OPTIONS).save_pretrained(weights)
    arguments = ("--backbone", "tiny-qwen3", "--sidenet", weights)
    made = run("bank", "rebuild", both, "-o", new, *arguments, "--key-storage", "int4", "--json").json()
    assert made["backbone"] == "tiny-qwen3" and made["documents"] == 2 and made["left_out"] == []
    old, manifest = Bank.load(both), Bank.read_manifest(new)
    assert [info.name for info in manifest.document_infos] == [info.name for info in old.documents]
    assert manifest.config.key_storage == "int4" and manifest.key_center is not None
    assert run("ask", new, "Who?", "--sidenet", weights, "--max-tokens", 3, "--json").code == 0
    assert "give another place" in one_line(run("bank", "rebuild", both, "-o", both, *arguments))
    assert "does not exist" in one_line(run("bank", "import", tmp_path / "no.jsonl", "-o", new))


def test_storage_is_chosen_when_a_memory_is_made(run, book, sidenet, tmp_path):
    path = tmp_path / "small.bank"
    arguments = ("read", book, "-o", path, "--backbone", "tiny-llama", "--sidenet", sidenet, "--key-storage")
    assert run(*arguments, "int4", "--search-storage", "derived").code == 0
    config = Bank.read_manifest(path).config
    assert (config.key_storage, config.value_storage, config.search_storage) == ("int4", None, "derived")
    assert "was made with --key-storage int4" in one_line(run(*arguments, "int8"))
    assert "use one of float32" in one_line(run(*arguments[:3], tmp_path / "b.bank", *arguments[4:], "int5"))


def test_a_second_reader_of_documents_is_told_who_writes(run, bank, book, sidenet, monkeypatch):
    with WriteLock(bank):
        (bank / ".writer.json").write_text(json.dumps({"pid": 1, "host": "h", "command": "ltm read", "since": "noon"}))
        monkeypatch.setattr("ltm.bank.disk.lock._held", {})  # as another process sees it
        message = one_line(run("read", book, "-o", bank, "--sidenet", sidenet))
    assert "is being written to by process 1 on h (ltm read, since noon)" in message
