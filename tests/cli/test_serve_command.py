"""ltm serve and ltm keys: what they print, what they refuse, and a server that starts, answers and stops."""

from __future__ import annotations

import builtins
import inspect
import json
import os
import re
import signal
import subprocess
import sys
from typing import get_type_hints
from urllib.request import Request, urlopen

import pytest

from ltm.cli.options import _own_sentences
from ltm.cli.serve import serve
from ltm.serve.keys import KeyStore
from ltm.serve.own_directory import OwnDirectory
from ltm.serve.settings import ServeSettings


def refused(result):
    """The one line on stderr."""
    assert result.code == 2 and result.out == "", result
    (line,) = result.err.splitlines()
    return line


def test_a_key_is_made_listed_and_revoked(run, tmp_path):
    place = ("--data-dir", tmp_path / "data")
    made = run("keys", "create", "laptop", "--user", "ann", "--expires", "90d", *place)
    text = made.out.strip()
    assert made.code == 0 and text.startswith("ltm_") and "shown this once" in made.err
    gateway = run("keys", "create", "webui", "--gateway", "--scope", "chat", "--json", *place).json()
    assert gateway["scopes"] == ["chat", "gateway"] and gateway["user"] is None
    listed = run("keys", "list", *place).out
    assert "laptop" in listed and "(gateway)" in listed and text not in listed and gateway["key"] not in listed
    assert [key["name"] for key in run("keys", "list", "--json", *place).json()] == ["laptop", "webui"]
    assert "revoked key 1, laptop" in run("keys", "revoke", "laptop", *place).err
    store = KeyStore(tmp_path / "data")
    assert store.find(text) is None and store.find(gateway["key"]).name == "webui"
    store.close()


def test_keys_that_cannot_be(run, tmp_path):
    place = ("--data-dir", tmp_path / "data")
    assert "give --user NAME, or --gateway" in refused(run("keys", "create", "x", *place))
    assert "give --user NAME, or --gateway" in refused(run("keys", "create", "x", "--user", "a", "--gateway", *place))
    assert "use hours, days or weeks" in refused(run("keys", "create", "x", "--user", "a", "--expires", "soon", *place))
    assert "there is no scope root" in refused(run("keys", "create", "x", "--user", "a", "--scope", "root", *place))
    assert "no keys are called x" in refused(run("keys", "revoke", "x", *place))


def test_servers_that_cannot_be(run, tmp_path):
    place = ("--data-dir", tmp_path / "data")
    assert "port=99999: input should be less" in refused(run("serve", "--port", "99999", *place))
    assert "is not there; give a TOML file" in refused(run("serve", "--config", tmp_path / "no.toml", *place))
    assert "no key yet; make one first: ltm keys create" in refused(
        run("serve", "--host", "0.0.0.0", "--port", "0", *place)
    )
    small = ("--model", "tiny-llama", "--port", "0")
    assert "keeps no bank; serve one that does" in refused(run("serve", *small, "--memory", "window", *place))
    assert "unknown method 'zork'" in refused(run("serve", *small, "--memory", "zork", *place))
    with OwnDirectory(tmp_path / "data"):
        pass
    assert not KeyStore(tmp_path / "data").all()  # what never listened made no key that nobody saw


def test_without_the_extra_one_line_says_what_to_install(run, monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *arguments):
        if name == "uvicorn":
            raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    for command in (("serve",), ("keys", "list")):
        line = refused(run(*command, "--data-dir", tmp_path))
        assert line == 'ltm: a server needs more libraries; run: pip install "ltm[server]"'


def test_the_command_line_has_every_setting_in_the_same_words():
    sentences = _own_sentences(ServeSettings)
    hints = get_type_hints(serve, include_extras=True)
    helps = {name: hints[name].__metadata__[0].help for name in inspect.signature(serve).parameters}
    assert set(helps) == set(ServeSettings.model_fields) - {"api_key"} | {"config"}
    own = {name: text for name, text in helps.items() if name in sentences and name != "sidenet"}
    assert own == {name: sentences[name] for name in own} and len(own) > 10


@pytest.fixture
def started(tmp_path):
    """`ltm serve` in a process of its own: (process, first key, address)."""
    options = ["--model", "tiny-llama", "--memory", "text", "--port", "0", "--data-dir", tmp_path / "data"]
    environment = {**os.environ, "LTM_MAX_TOKENS": "3"}
    process = subprocess.Popen(
        [sys.executable, "-m", "ltm", "serve", *options], stdout=-1, stderr=-1, text=True, env=environment
    )
    key = process.stdout.readline().strip()
    said = ""
    while (line := process.stderr.readline()) and "curl" not in line:
        said += line
    yield process, key, re.search(r"http://\S+:\d+", said)[0]
    process.kill()
    process.wait(10)


def test_a_server_starts_answers_refuses_a_second_and_stops(started, run, tmp_path):
    process, key, url = started
    body = json.dumps({"model": "tiny-llama:off", "messages": [{"role": "user", "content": "Hello"}]}).encode()
    request = Request(f"{url}/v1/chat/completions", body, {"authorization": f"Bearer {key}"})
    with urlopen(request, timeout=30) as response:
        assert json.load(response)["usage"]["completion_tokens"] == 3
        assert "server" not in response.headers
    second = refused(run("serve", "--model", "tiny-llama", "--port", "0", "--data-dir", tmp_path / "data"))
    assert f"belongs to a running server (process {process.pid}" in second
    assert [one["user"] for one in run("keys", "list", "--json", "--data-dir", tmp_path / "data").json()] == ["me"]
    port = url.rpartition(":")[2]
    taken = refused(run("serve", "--model", "tiny-llama", "--port", port, "--data-dir", tmp_path / "other"))
    assert f"port {port} cannot be had" in taken
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) in (0, -signal.SIGTERM)


def test_everything_else_works_without_the_extra(tmp_path):
    program = """
import sys
class Absent:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("starlette", "uvicorn", "sse_starlette", "pydantic_settings", "prometheus_client"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import ltm
from ltm.cli import main
assert ltm.Session and main(["--help"]) == 0
sys.exit(main(["serve"]))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2 and "serve " in result.stdout
    assert result.stderr == 'ltm: a server needs more libraries; run: pip install "ltm[server]"\n'
