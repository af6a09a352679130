"""packaging/: a Dockerfile and a systemd unit, as far as they can be tested without running either."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from ltm.serve.settings import ServeSettings

ROOT = Path(__file__).parent.parent
PACKAGING = ROOT / "packaging"
INSTRUCTIONS = {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "ENV", "USER", "VOLUME", "EXPOSE"}
INSTRUCTIONS |= {"HEALTHCHECK", "ENTRYPOINT", "CMD"}
OTHER_VARIABLES = {"LTM_CACHE"}
"""Of the library's that are no setting of a server."""


@pytest.fixture(scope="module")
def steps():
    """[(instruction, its words)] of the Dockerfile."""
    text = (PACKAGING / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines()]


def last(steps, name):
    return [rest for instruction, rest in steps if instruction == name][-1]


def test_the_image_runs_as_nobody_special_and_keeps_its_data_apart(steps):
    assert {name for name, _ in steps} == INSTRUCTIONS
    assert all("slim" in rest for name, rest in steps if name == "FROM")
    assert last(steps, "USER") == "10001" and last(steps, "VOLUME") == "/data"
    order = [name for name, _ in steps]
    assert order.index("VOLUME") > order.index("USER") and "/data" in last(steps, "RUN")
    assert json.loads(last(steps, "ENTRYPOINT")) == ["ltm"] and json.loads(last(steps, "CMD")) == ["serve"]


def test_the_image_is_made_of_what_is_there(steps):
    copied = [rest.split()[:-1] for name, rest in steps if name == "COPY" and "--from" not in rest]
    sources = [source for one in copied for source in one]
    assert sources and all((ROOT / source).exists() for source in sources)
    ignored = (PACKAGING / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == set(sources)
    assert all((ROOT / name).exists() for name in re.findall(r"requirements/\S+\.txt", str(steps)))


@pytest.mark.parametrize("file", ["Dockerfile", "ltm.service"])
def test_settings_in_the_environment_are_settings(file):
    named = set(re.findall(r"\bLTM_[A-Z_]+", (PACKAGING / file).read_text())) - OTHER_VARIABLES
    assert named and {name.removeprefix("LTM_").lower() for name in named} <= set(ServeSettings.model_fields)


@pytest.mark.parametrize("status", [200, 503])
def test_the_health_check_says_whether_it_is_ready(steps, status):
    class Answering(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/ready" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answering)
    Thread(target=server.serve_forever, daemon=True).start()
    command = json.loads(last(steps, "HEALTHCHECK").partition("CMD ")[2])
    assert ":8000/" in command[2] and "8000" in last(steps, "EXPOSE")
    command = [sys.executable, "-c", command[2].replace(":8000/", f":{server.server_port}/")]
    assert (subprocess.run(command, capture_output=True).returncode == 0) == (status == 200)
    server.shutdown()


@pytest.fixture
def unit():
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(PACKAGING / "ltm.service")
    return parser


def test_the_unit_has_no_rights_that_it_does_not_need(unit):
    service = unit["Service"]
    assert service["DynamicUser"] == "yes" and service["StateDirectory"] == "ltm" and service["UMask"] == "0077"
    assert "--data-dir ${STATE_DIRECTORY}" in service["ExecStart"] and service["Restart"] == "on-failure"
    assert service["ProtectSystem"] == "strict" and service["CapabilityBoundingSet"] == ""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd on this machine")
def test_systemd_understands_the_unit(tmp_path):
    text = (PACKAGING / "ltm.service").read_text()
    (tmp_path / "ltm.service").write_text(text.replace("/opt/ltm/bin/ltm", sys.executable))
    told = subprocess.run(["systemd-analyze", "verify", tmp_path / "ltm.service"], capture_output=True, text=True)
    assert told.returncode == 0 and not told.stderr, told.stderr
    (tmp_path / "ltm.service").write_text(text.replace("ProtectProc=invisible", "ProtectPork=yes"))
    told = subprocess.run(["systemd-analyze", "verify", tmp_path / "ltm.service"], capture_output=True, text=True)
    assert "ProtectPork" in told.stderr  # it would be told
