"""Files that a user named: replaced only by their own kind, whole or not at all, and never by way of a rename where
something else than a file stands."""

from __future__ import annotations

import os
import sys

import pytest

from ltm.errors import LtmError
from ltm.outputs import begins_with, check_output, write_output

OWN = (begins_with("ours"), "a page of ours")


def test_new_own_and_empty_files_are_written(tmp_path):
    file = tmp_path / "out.html"
    for content in ("ours 1", "ours 2"):
        write_output(file, content, *OWN)
        assert file.read_text() == content
    file.write_text("")
    write_output(file, b"ours 3", *OWN)
    assert file.read_text() == "ours 3" and os.listdir(tmp_path) == ["out.html"]


def test_other_files_and_folders_are_left(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    (tmp_path / "link").symlink_to(file)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (file, tmp_path / "link"):
        with pytest.raises(LtmError, match="is there and is not a page of ours; it was left as it is"):
            write_output(path, "ours", *OWN)
    for path, says in ((tmp_path, "is a folder"), ("", "is a folder"), (tmp_path / "no" / "out", "is no folder")):
        with pytest.raises(LtmError, match=says):
            write_output(path, "ours", *OWN)
    with pytest.raises(LtmError, match="cannot write"):
        check_output(tmp_path / ("x" * 300), *OWN)
    with pytest.raises(LtmError, match="cannot write"):
        write_output(tmp_path / "loop", "ours", *OWN)
    assert file.read_text() == "mine" and sorted(os.listdir(tmp_path)) == ["link", "loop", "notes.txt"]


def test_a_link_to_one_of_ours_stays_a_link(tmp_path):
    (tmp_path / "page").write_text("ours 1")
    (tmp_path / "link").symlink_to("page")
    write_output(tmp_path / "link", "ours 2", *OWN)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "page").read_text() == "ours 2"


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    file = tmp_path / "out"
    file.write_text("ours 1")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(LtmError, match="No space left"):
        write_output(file, "ours 2", *OWN)
    assert file.read_text() == "ours 1" and os.listdir(tmp_path) == ["out"]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes with names")
def test_pipes_and_devices_are_written_to(tmp_path):
    write_output("/dev/null", "ours", *OWN)
    assert not os.path.isfile("/dev/null")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(LtmError, match="cannot write"):  # nobody reads: an error at once, no wait
        write_output(pipe, "ours", *OWN)
    opened = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_output(pipe, "ours", *OWN)
    assert os.read(opened, 10) == b"ours" and not pipe.is_file()
    os.close(opened)
