"""Merging, compacting, texts out and in, and what is found of a text."""

from __future__ import annotations

import json
import sys
import unicodedata
from pathlib import Path

import pytest
import torch
from bank.model_bank import tokens_of

from ltm.backbone.fingerprint import Fingerprint
from ltm.backbone.tiny import byte_tokenizer
from ltm.bank import Bank, BankConfig
from ltm.bank.disk.texts import KeptText, kept_texts, read_kept_texts
from ltm.bank.following import following
from ltm.errors import BankError, BankMismatchError

FINGERPRINT = Fingerprint("Llama", "ab" * 32, None, 4, 4, 2, 8, 32, 1000, "float32", "null")


def new_bank(storage=None, *, size=None, rows=1, fingerprint=FINGERPRINT, **more) -> Bank:
    config = BankConfig(3, size, None, storage, storage, "derived" if storage == "int4" else None, index="exact")
    return Bank(config, **{"num_rows": rows, "num_kv_heads": 2, "head_dim": 8, "fingerprint": fingerprint, **more})


def add(bank: Bank, name: str | None, text: str, *, row: int = 0, complete: bool = True) -> None:
    """A text, a token for each of its bytes, or tokens without a document."""
    content = text.encode()
    keys, values, _ = tokens_of(len(content), seed=len(content))
    document = None if name is None else bank.add_document(name, row=row, text=text)
    spans = torch.tensor([[i, i + 1] for i in range(len(content))])[None]
    ids = torch.tensor([list(content)])
    bank.write(keys, values, ids, rows=[row], documents=[document], spans=spans if document is not None else None)
    if document is not None and complete:
        bank.finish_document(document)


def held(bank: Bank, row: int = 0) -> list[tuple[str | None, str]]:
    """Name and text of each chunk in order."""
    names = {info.id: info.name for info in bank.documents}
    numbers = bank.rows[row].slots().tolist()
    return [(names.get(s.document), bytes(s.token_ids).decode()) for s in bank.sources(numbers, row)]


@pytest.mark.parametrize("storages", [(None, None), ("int4", "int4"), (None, "int4"), ("int4", None), ("int8", "int4")])
def test_merging_is_reading_one_after_the_other(storages):
    one, other = new_bank(storages[0]), new_bank(storages[1])
    add(one, "a", "call me ishmael")
    add(other, "b", "some years ago")
    add(other, None, "never mind")
    add(other, "c", "how long precisely")
    assert one.merge(other) == []
    expected = new_bank(storages[0])
    for name, text in (("a", "call me ishmael"), ("b", "some years ago"), (None, "never mind")):
        add(expected, name, text)
    add(expected, "c", "how long precisely")
    assert held(one) == held(expected) and len(held(other)) == 15
    assert [one.document_text(i.id) for i in one.documents] == [
        expected.document_text(i.id) for i in expected.documents
    ]
    queries = torch.randn(1, 4, 5, 8, generator=torch.Generator().manual_seed(1))
    mine, theirs = one.search(queries, 4), expected.search(queries, 4)
    codes = (storages[0] == "int4") + (storages[1] == "int4")
    tolerance = 0.0 if storages[0] == storages[1] else 1.5 * codes
    assert torch.allclose(mine.scores, theirs.scores, atol=tolerance)
    if not tolerance:
        assert torch.equal(one.gather(mine)[0], expected.gather(theirs)[0])


def test_what_followed_is_not_made_up_by_merging():
    one, other = new_bank(), new_bank()
    add(one, None, "abc")
    add(other, None, "def")
    add(other, "gone", "xyz")
    add(other, None, "ghi")
    other.delete_document(0)
    one.merge(other)
    assert [text for _, text in held(one)] == ["abc", "def", "ghi"]
    assert following(one.rows[0], torch.arange(3))[:, 2].tolist() == [-1, -1, -1]


def test_the_same_document_is_taken_once_and_another_of_its_name_is_refused():
    one, other = new_bank(), new_bank()
    for bank in (one, other):
        add(bank, "same", "to be or not")
    add(other, "new", "that is the question")
    before = one.num_tokens()
    assert one.merge(other) == ["same"] and [info.name for info in one.documents] == ["same", "new"]
    assert one.num_tokens() == before + len("that is the question")
    clash = new_bank()
    add(clash, "same", "to do or not")
    with pytest.raises(BankError, match="both banks hold different documents called same"):
        one.merge(clash)
    assert [info.name for info in one.documents] == ["same", "new"]


def test_only_banks_of_one_backbone_and_shape_are_merged():
    others = {
        "weights: bank abab": new_bank(fingerprint=Fingerprint.from_dict({**FINGERPRINT.to_dict(), "weights": "c"})),
        "num_rows: 1 and 2": new_bank(rows=2),
        r"layers: \(0,\) and \(3,\)": new_bank(layers=(3,)),
        "chunk_size: 3 and 5": Bank(BankConfig(5), num_rows=1, num_kv_heads=2, head_dim=8),
    }
    for message, other in others.items():
        with pytest.raises(BankMismatchError, match=message):
            new_bank().merge(other)


def test_merging_keeps_the_budget():
    one, other = new_bank(size=9), new_bank(size=9)
    add(one, "a", "aaaaaaaaa")
    add(other, "b", "bbbbbb")
    one.merge(other)
    assert held(one) == [("a", "aaa"), ("b", "bbb"), ("b", "bbb")]


@pytest.mark.parametrize("storage", [None, "int8", "int4"])
def test_compacting_leaves_only_what_is_remembered(tmp_path, storage):
    path, bank = tmp_path / "a.bank", new_bank(storage, size=30)
    for text in ("a secret in the first chunks", "other words that go on", "and more of them"):
        add(bank, None, text)
        bank.save(path)
    (ids,) = {bytes(torch.tensor(list(b"more of"), dtype=torch.int32).view(torch.uint8).tolist())}
    files = {file: file.read_bytes() for file in path.rglob("*.safetensors")}
    assert len(files) > 1
    forgotten = torch.tensor(list(b"other wo"), dtype=torch.int32).numpy().tobytes()
    assert any(forgotten in content for content in files.values())  # evicted, its shard is not
    before = held(bank)
    Bank.load(path).save(path, compact=True)
    contents = [file.read_bytes() for file in path.rglob("*.safetensors")]
    assert len(contents) == 1 and ids in contents[0] and forgotten not in contents[0]
    assert held(Bank.load(path, verify=True)) == before


@pytest.mark.parametrize("storage", [None, "bfloat16", "int8", "int4"])
def test_a_deleted_text_is_nowhere(tmp_path, storage):
    path, bank, tokenizer = tmp_path / "a.bank", new_bank(storage), byte_tokenizer()
    add(bank, "kept", "call me Ishmael, some years ago")
    add(bank, "diary", "The  treasure is buried\nunder the oak")
    bank.save(path)
    secret = "treasure is buried under the OAK"
    found = Bank.find_text(path, secret, tokenizer)
    assert any("the text of document 1 (diary)" in line for line in found)
    assert any("the remembered tokens of row 0" in line for line in found)
    exact = Bank.find_text(path, "treasure is buried", tokenizer)
    assert sum("the bytes of" in line for line in exact) == 1 and sum("its token ids in" in line for line in exact) == 1
    assert Bank.find_text(path, "diary")  # a name counts
    Bank.load(path).delete_document(1)
    assert Bank.find_text(path, "treasure is buried", tokenizer) == exact  # not saved yet
    bank = Bank.load(path)
    bank.delete_document(1)
    bank.save(path)
    for text in (secret, "treasure is buried", "diary"):
        assert Bank.find_text(path, text, tokenizer) == []
    assert Bank.find_text(path, "Ishmael", tokenizer)


def test_leftovers_of_a_killed_save_are_found(tmp_path):
    path, bank = tmp_path / "a.bank", new_bank()
    add(bank, "kept", "call me Ishmael")
    bank.save(path)
    (path / "documents" / "7-0a1b2c3d.txt").write_text("the treasure")
    (line,) = Bank.find_text(path, "treasure")
    assert "7-0a1b2c3d.txt, which belongs to no bank any more" in line
    bank.save(path)
    assert Bank.find_text(path, "treasure") == []
    with pytest.raises(BankError, match="too short to look for"):
        Bank.find_text(path, " a ")


TEXT = "The treasure of Ahab, buried in the café"
FORMS = {
    "line break": TEXT.replace(" ", "\r\n  "),
    "case": TEXT.upper(),
    "decomposed": unicodedata.normalize("NFD", TEXT),
    "compatibility": TEXT.replace("f", "ｆ"),
    "no-break space": TEXT.replace(" ", "\u00a0"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["documents/7-0a1b2c3d.txt", ".manifest.json.0a1b2c3d", "journal-0a1b2c3d.jsonl", "x"])
def test_leftovers_are_found_in_any_form(tmp_path, form, name):
    path, bank = tmp_path / "a.bank", new_bank()
    add(bank, "kept", "call me Ishmael")
    bank.save(path)
    assert Bank.find_text(path, TEXT) == []
    for content in (FORMS[form].encode(), FORMS[form].encode("utf-16"), json.dumps(FORMS[form]).encode()):
        (path / name).write_bytes(b"\xff \\ud83d" + b"." * 70_001 + content + b"\xf0\x9f")
        (line,) = Bank.find_text(path, TEXT)
        assert line.startswith("the bytes of") and line.endswith(f"{name}, which belongs to no bank any more")


@pytest.mark.parametrize("form", ["line break", "case", "no-break space"])
def test_tokens_of_a_leftover_shard_are_found_in_any_form(tmp_path, form):
    path, bank, tokenizer = tmp_path / "a.bank", new_bank(), byte_tokenizer()
    add(bank, "kept", "call me Ishmael")
    bank.save(path)
    other = new_bank()
    add(other, None, FORMS[form].replace("é", "e").replace("É", "E"))
    other.save(tmp_path / "b.bank")
    (shard,) = (tmp_path / "b.bank" / "shards").iterdir()
    left, content = path / "shards" / "0-90-99-0a1b2c3d.safetensors", shard.read_bytes()
    left.write_bytes(content)
    wanted = TEXT.replace("é", "e")
    (line,) = Bank.find_text(path, wanted, tokenizer)
    assert line.startswith("its token ids in") and line.endswith("which belongs to no bank any more")
    assert Bank.find_text(path, "another text that is not there", tokenizer) == []
    for cut in (len(content), 400, 0):  # it cannot be looked into without a tokenizer, or where it was cut off
        left.write_bytes(content[:cut])
        (line,) = Bank.find_text(path, wanted, None if cut == len(content) else tokenizer)
        assert line.startswith("perhaps") and "ltm bank compact" in line
    Bank.load(path).save(path, compact=True)
    assert Bank.find_text(path, wanted, tokenizer) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
def test_what_cannot_be_looked_into_may_hold_it(tmp_path, monkeypatch):
    path, bank = tmp_path / "a.bank", new_bank()
    add(bank, "kept", "call me Ishmael")
    bank.save(path)
    (path / "link").symlink_to(tmp_path)
    (line,) = Bank.find_text(path, TEXT)
    assert line.startswith("perhaps") and "it is a link and was not looked into; remove it" in line
    (path / "link").unlink()
    (path / "large").write_bytes(bytes(200))
    monkeypatch.setattr("ltm.bank.disk.absence.MOST_BYTES", 150)
    assert any("large: it is too large" in line for line in Bank.find_text(path, TEXT))


def test_texts_go_out_with_what_is_held_of_them(tmp_path):
    bank = new_bank(size=18)
    add(bank, "half", "abcdefghijklmnopqr")
    add(bank, "whole", "012345678")
    add(bank, "cut", "xyz" * 2, complete=False)
    texts = list(kept_texts(bank))
    assert texts == [
        KeptText("half", "abcdefghijklmnopqr", [(15, 18)]),
        KeptText("whole", "012345678", [(0, 9)]),
        KeptText("cut", "xyzxyz", [(0, 6)]),
    ]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(kept.to_json() + "\n" for kept in texts))
    assert list(read_kept_texts(file)) == texts
    bank.add_document("no text")
    with pytest.raises(BankError, match="the texts of no text are not in this bank"):
        list(kept_texts(bank))


def test_ranges_of_a_text_stay_with_it(tmp_path):
    """Saved, merged and exported; neighbouring chunks do not join what was left out between two ranges."""
    text, ranges = "0123456789" * 3, ((0, 9), (18, 27))
    bank, other = new_bank(), new_bank()
    number = bank.add_document("parts", text=text, ranges=[(18, 27), (0, 9)])
    for start, end in ranges:
        spans = torch.arange(start, end)[:, None] + torch.tensor([0, 1])
        bank.write(*tokens_of(end - start), documents=[number], spans=spans[None])
    add(bank, "whole", "012345678")
    assert bank.document_registry[bank.add_document("all", text="0123", ranges=[(0, 2), (2, 4)])].ranges is None
    bank.finish_document(number)
    bank.save(tmp_path / "a")
    loaded = Bank.load(tmp_path / "a")
    other.merge(loaded)
    for own in (bank, loaded, other, bank.select([0])):
        assert [document.ranges for document in own.document_registry] == [ranges, None, None]
        kept = next(iter(kept_texts(own)))
        assert (kept.name, kept.ranges) == ("parts", list(ranges))
    lines = next(tmp_path.glob("a/journal-*.jsonl")).read_text()
    assert lines.count("ranges") == 1, "a bank of whole texts is as it was before there were ranges"
    with pytest.raises(BankError, match=r"\(4, 31\) is no range of bad, which has 30 characters"):
        bank.add_document("bad", text=text, ranges=[(0, 3), (4, 31)])


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        '{"id": "a", "text": "b"}',
        '{"id": 3, "text": "b", "ranges": []}',
        '{"id": "a", "text": "b", "ranges": [[0, 2]]}',
    ],
)
def test_lines_that_were_not_exported_are_refused(tmp_path, line):
    file = tmp_path / "texts.jsonl"
    file.write_text(json.dumps({"id": "a", "text": "b", "ranges": [[0, 1]]}) + f"\n{line}\n")
    with pytest.raises(BankError, match=r"texts\.jsonl:2 is no line of"):
        list(read_kept_texts(Path(file)))
