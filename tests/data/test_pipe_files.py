"""Texts that come through a pipe, and pages of HTML as texts."""

from __future__ import annotations

import io
import os
import sys
import threading
from pathlib import Path

import pytest

from ltm.data import pipes
from ltm.data.documents import DocumentError, documents_of, find_sources, iter_documents
from ltm.data.html_text import html_text, looks_like_html
from ltm.errors import LtmError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes as files")


def piped(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_standard_input_is_a_document_that_can_be_gone_through_twice(monkeypatch, tmp_path):
    (tmp_path / "a.txt").write_text("a file")
    piped(monkeypatch, "größe\r\n".encode())
    sources = find_sources(["-", tmp_path / "a.txt"])
    for _ in range(2):
        assert [(d.name, d.text) for d in documents_of(sources)] == [("stdin", "größe\n"), ("a.txt", "a file")]


def test_a_piped_text_is_called_and_read_as_it_is_said(monkeypatch):
    for name, data, found in (
        ("tale", b"a tale", [("tale", "a tale")]),
        ("page.HTML", b"<p>a <b>tale</b></p>", [("page.HTML", "a tale\n")]),
        ("all.jsonl", b'{"id": "x", "text": "one"}\n{"text": "two"}\n', [("x", "one"), ("all.jsonl:2", "two")]),
    ):
        piped(monkeypatch, data)
        assert [(d.name, d.text) for d in documents_of(find_sources("-", name))] == found
    for paths in ([__file__], ["-", "/dev/fd/0"]):
        piped(monkeypatch, b"x")
        with pytest.raises(DocumentError, match="a name is for one text that is piped in"):
            find_sources(paths, "tale")


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"", "standard input is empty"), (b"a\0b", "NUL"), (b"caf\xe9", "not UTF-8"), (b" \n", "white space")],
)
def test_what_is_no_text_is_refused(monkeypatch, data, says):
    piped(monkeypatch, data)
    with pytest.raises(LtmError, match=says):
        list(iter_documents("-"))


def test_a_pipe_without_an_end_is_refused(monkeypatch):
    monkeypatch.setattr(pipes, "MOST_BYTES", 5)
    piped(monkeypatch, b"more than five")
    with pytest.raises(LtmError, match="gave more than 5 bytes"):
        list(iter_documents("-"))
    with pytest.raises(DocumentError, match="can be read once only"):
        find_sources(["-", "/dev/stdin"])


def test_pipes_of_a_shell_and_with_names(tmp_path, monkeypatch):
    inner, outer = os.pipe()
    os.write(outer, b"first")
    os.close(outer)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_text("second"))
    writer.start()
    sources = find_sources([f"/dev/fd/{inner}", fifo])
    writer.join(10)
    assert [(d.name, d.text) for d in documents_of(sources)] == [("pipe", "first"), ("pipe-2", "second")]
    monkeypatch.setattr(pipes, "WAIT_SECONDS", 0.1)
    with pytest.raises(LtmError, match="nobody writes to"):
        find_sources(fifo)
    (tmp_path / "a.txt").write_text("a file")
    assert [source.name for source in find_sources(tmp_path)] == ["a.txt"]  # pipes in a folder are passed over
    with pytest.raises(DocumentError, match="not a kind of file"):
        find_sources("/dev/zero")


PAGE = """<!DOCTYPE html>
<html><head><title>Ships &amp; rope</title><style>a{}</style><script>var x = "<p>";</script></head>
<body><!-- no --><h1>The  Alma</h1><p>came
in <b>May</b>.<p>Nobody<br>asked.</p><ul><li>salt<li>rope</ul><table><tr><td>a<td>b</tr></table>
<pre>  as
    it is</pre><template>unseen</template><noscript>unseen</noscript><![foo[x]]><p>End.</body></html>"""


def test_a_page_is_its_visible_text(tmp_path):
    text = html_text(PAGE)
    assert text == (
        "Ships & rope\n\nThe Alma\n\ncame in May.\n\nNobody\nasked.\n\nsalt\nrope\n\na b\n\n  as\n    it is\n\nEnd.\n"
    )
    (tmp_path / "page.htm").write_text(PAGE)
    (tmp_path / "page.txt").write_text(PAGE)
    assert [d.text for d in iter_documents(tmp_path)] == [text, PAGE]
    assert looks_like_html(PAGE) and looks_like_html("<!-- x -->\n<HTML lang=en>") and not looks_like_html(text)
    (tmp_path / "none.html").write_text("<script>only()</script>")
    with pytest.raises(DocumentError, match="white space"):
        list(iter_documents(Path(tmp_path / "none.html")))


@pytest.mark.parametrize("broken", ["<", "<!", "<![", "<!-", "<p", "<p a='", "&", "&#x110000;", "</", "<script>", "<?"])
def test_broken_pages_are_read(broken):
    assert html_text(f"<p>before</p>{broken}").startswith("before")
