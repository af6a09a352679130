"""What people see of text from elsewhere: everything of it, and nothing that acts."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from ltm import console

ODD = {
    "plain größe 漢字 👍🏽": "plain größe 漢字 👍🏽",
    "two\nlines\t\x1b[31mred": "two\\nlines\\t\\x1b[31mred",
    "[bold]chat [/INST] :smile:": "[bold]chat [/INST] :smile:",
    "half \ud83d": "half \\ud83d",
    "caf\udce9.txt": "caf\\xe9.txt",
    "invoice\u202efdp.exe": "invoice\\u202efdp.exe",
    "\x9b31m\x7f\r\x00": "\\x9b31m\\x7f\\r\\x00",
    "a\u2028b\u2066c\ufeff": "a\\u2028b\\u2066c\\ufeff",
}


@pytest.mark.parametrize(("text", "seen"), ODD.items(), ids=range(len(ODD)))
def test_what_acts_is_shown(text, seen):
    assert console.shown(text) == seen
    assert console.shown(f"{text}\n\tend", lines=True).endswith("\n\tend")
    assert json.loads(console.json_text({text: [text]})) == {text: [text]}
    assert not console._HIDDEN.search(console.json_text({text: [text]}))


@pytest.mark.parametrize("name", ["notice", "working", "table", "progress", "json", "write"])
@pytest.mark.parametrize(("text", "seen"), ODD.items(), ids=range(len(ODD)))
def test_every_way_out_shows_it(monkeypatch, name, text, seen):
    out = io.StringIO()
    for stream in (console.notices, console.results):
        monkeypatch.setattr(stream, "_file", out)
        monkeypatch.setattr(stream, "_force_terminal", True)
        monkeypatch.setattr(stream, "_width", 200)
        monkeypatch.setattr(stream, "_color_system", None)
        monkeypatch.setattr(stream, "_environ", {"TERM": "xterm"})
        monkeypatch.setattr(stream, "is_interactive", True)
    monkeypatch.setattr("sys.stdout", out)
    if name == "notice":
        console.notice(text, style="bold")
    elif name == "working":
        with console.working(text):
            pass
    elif name == "table":
        console.print_table(text, [text], [[text]])
    elif name == "json":
        console.print_json({"name": text})
    elif name == "write":
        console.write(text)
    else:
        with console.make_progress() as progress:
            progress.add_task(text, total=1, detail=text)
    if name == "json":
        assert json.loads(out.getvalue()) == {"name": text}
    else:
        assert (console.shown(text, lines=True) if name == "write" else seen) in out.getvalue()


@pytest.mark.skipif(sys.platform == "win32", reason="bash")
@pytest.mark.parametrize("text", [*ODD, 'it\'s "x" $HOME `y`', "a\\b'\x1b", "", "-o"])
def test_a_shell_takes_every_word_as_it_was(text):
    if "\x00" in text or "\ud83d" in text:
        pytest.skip("no program can be given this word")
    line = console.shell_line("printf", "%s", text)
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    assert done.stdout.decode("utf-8", "surrogateescape") == text
    assert not console._HIDDEN.search(line)


def test_json_goes_to_a_stream_that_has_few_characters(monkeypatch):
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    console.print_json(["größe 👍"])
    sys.stdout.flush()
    assert json.loads(sys.stdout.buffer.getvalue()) == ["größe 👍"]
