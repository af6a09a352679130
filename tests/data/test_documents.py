"""Reading documents: what is found, in which order and under which name; what is refused, and how."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from ltm.data.documents import DocumentError, iter_documents
from ltm.errors import LtmError


def write_jsonl(path: Path, records: list, compress: bool = False) -> Path:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if compress else data)
    return path


def test_text_file_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbffirst\r\nsecond \xc3\xa9\n")
    (document,) = iter_documents(tmp_path / "a.txt")
    assert (document.name, document.text) == ("a.txt", "first\nsecond é\n")
    assert document.source == str(tmp_path / "a.txt")


@pytest.mark.parametrize("compress", [False, True])
def test_json_lines_are_documents_with_names(tmp_path, compress):
    records = [
        {"text": "one", "id": "x/1", "title": "not this"},
        {"text": "two", "title": "Two"},
        {"text": "three", "name": 3},
        {"text": "four"},
        {"text": "  "},
    ]
    path = write_jsonl(tmp_path / ("d.jsonl.gz" if compress else "d.jsonl"), records, compress)
    found = list(iter_documents(str(path)))
    assert [d.text for d in found] == ["one", "two", "three", "four"]
    assert [d.name for d in found] == ["x/1", "Two", "3", f"{path.name}:4"]
    assert found[1].source == f"{path}:2"


def test_folder_is_read_in_sorted_order_to_any_depth(tmp_path):
    for name in ("b.txt", "a.MD", "sub/deeper/c.txt", "sub/a.txt", ".hidden.txt", ".git/x.txt", "LICENSE"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}")
    write_jsonl(tmp_path / "sub" / "b.jsonl", [{"text": "line"}])
    names = [d.name for d in iter_documents(tmp_path)]
    assert names == ["a.MD", "b.txt", "sub/a.txt", "sub/b.jsonl:1", "sub/deeper/c.txt"]


def test_order_of_paths_is_kept(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    assert [d.text for d in iter_documents([tmp_path / "b.txt", str(tmp_path / "a.txt")])] == [
        "b.txt",
        "a.txt",
    ]


def test_reading_is_lazy(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": "fine"}, "broken"])
    documents = iter_documents(tmp_path)
    assert next(documents).text == "fine"
    with pytest.raises(DocumentError, match="a.jsonl:2"):
        next(documents)


def test_blank_lines_are_passed_over(tmp_path):
    (tmp_path / "a.jsonl").write_text('\n{"text": "x"}\n\n{"text": "y"}')
    assert [d.source.rsplit(":", 1)[1] for d in iter_documents(tmp_path / "a.jsonl")] == ["2", "4"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"", "is empty"),
        ("white.md", b" \n\t\n", "white space"),
        ("junk.txt", b"\x7fELF\x00\x01", "NUL bytes"),
        ("latin.txt", b"caf\xe9", "not UTF-8 .byte 3."),
        ("utf16.txt", "text".encode("utf-16"), "NUL bytes"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl:2 is not JSON"),
        ("a.jsonl", b'{"title": "x"}\n', r"a\.jsonl:1 .*'text'.*title"),
        ("a.jsonl", b'{"text": 3}\n', r"a\.jsonl:1 .*'text'.*int"),
        ("a.jsonl", b"[1, 2]\n", r"a\.jsonl:1 is a JSON list"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"a\.jsonl:1 .*surrogate"),
        ("a.jsonl", b'{"text": "a\\u0000"}\n', r"a\.jsonl:1 .*NUL"),
        ("a.jsonl", b'{"text": ""}\n', "holds no text"),
        ("a.jsonl.gz", b'{"text": "not packed"}\n', "not a whole gzip file"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 500, mtime=0)[:40], "not a whole gzip file"),
        ("a.pdf", b"%PDF", "not a kind of file.*jsonl.gz"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DocumentError, match=words) as caught:
        list(iter_documents(tmp_path / name))
    assert isinstance(caught.value, LtmError)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_problems_with_paths_show_at_the_call(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "image.png").write_bytes(b"png")
    with pytest.raises(DocumentError, match="missing.txt does not exist"):
        iter_documents([tmp_path / "a.txt", tmp_path / "missing.txt"])
    with pytest.raises(DocumentError, match="folder holds nothing to read.*txt"):
        iter_documents(tmp_path / "folder")
    with pytest.raises(DocumentError, match="no data given"):
        iter_documents([])


@pytest.mark.skipif(os.name == "nt" or (hasattr(os, "geteuid") and os.geteuid() == 0), reason="root reads all")
def test_unreadable_file_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(DocumentError, match="cannot be read"):
        list(iter_documents(tmp_path / "a.txt"))


def test_what_ltm_keeps_in_a_folder_is_no_text(tmp_path):
    """A memory's copies of texts would be read again and again, and outlive their deletion."""
    for name in (
        "b.bank/documents/0-0a1b2c3d.txt",
        "net/log.jsonl",
        "run/log.jsonl",
        "begun.bank/documents/1-0a1b2c3d.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("the text of a memory")
    (tmp_path / "b.bank" / "manifest.json").write_text('{\n "format": "ltm-bank",\n "version": 3')
    (tmp_path / "begun.bank" / ".lock").touch()
    (tmp_path / "net" / "ltm_method.json").write_text("{}")
    (tmp_path / "run" / "train_config.json").write_text("{}")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text('{"texts": ["a.txt"]}')
    (tmp_path / "mine" / "a.txt").write_text("mine")
    assert [document.name for document in iter_documents(tmp_path)] == ["mine/a.txt"]
    for name, what in (("b.bank", "a memory"), ("net", "a saved method"), ("run", "a training run")):
        with pytest.raises(DocumentError, match=f"{name} is {what}, not a folder of texts"):
            iter_documents(tmp_path / name)
