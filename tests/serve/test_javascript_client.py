"""The official JavaScript client: what it sent is sent again, and, where node and its package are, it runs itself.

`javascript/wire.jsonl` is what openai 6.49.0 under node 20 sent to a server, and the shape of the answers;
it was written by `node javascript/client.mjs URL KEY wire.jsonl`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

HERE = Path(__file__).parent / "javascript"
WIRE = [json.loads(line) for line in (HERE / "wire.jsonl").read_text().splitlines()]
PACKAGE = "LTM_OPENAI_JS"
"""Environment variable with a folder in which `npm install openai` was run."""


def send(url, key, sent, names):
    """One request as it was sent, with the ids of this server; status, kind and text of the answer."""
    headers = {name: value.replace("KEY", key) for name, value in sent["headers"].items()}
    path, body = (_renamed(json.dumps(sent[part]), names) for part in ("path", "body"))
    data = None if body == "null" else body.encode()
    try:
        with urlopen(Request(url + json.loads(path), data, headers, method=sent["method"]), timeout=60) as answered:
            return answered.status, answered.headers["content-type"], answered.read().decode()
    except HTTPError as error:
        return error.code, error.headers["content-type"], error.read().decode()


def _renamed(text, names):
    for old, new in names.items():
        text = text.replace(old, new)
    return text


def shape_of(value):
    """Names and types, as `shapeOf` in client.mjs."""
    if isinstance(value, list):
        return [shape_of(value[0])] if value else []
    if isinstance(value, dict):
        return {name: shape_of(one) for name, one in value.items()}
    kinds = {bool: "boolean", str: "string", type(None): "null"}
    return kinds.get(type(value), "number")


def test_what_it_sent_is_answered_in_the_same_shape(serve, longmem, keys):
    running, key, names = serve(longmem), keys.create("mine", user="me")[1], {}
    assert len(WIRE) > 15
    for sent in WIRE:
        status, kind, text = send(running.url, key, sent, names)
        assert status == sent["status"], sent["case"]
        if "shape" not in sent:
            assert kind.startswith("text/event-stream") and text.startswith(("data: {", "event: response.created"))
            continue
        told = json.loads(text)
        if sent["id"]:
            names[sent["id"]] = told["id"]
        assert shape_of(told).keys() == sent["shape"].keys(), sent["case"]
        for part in ("choices", "usage", "error", "output", "data"):
            if sent["shape"].get(part) and shape_of(told)[part]:
                assert shape_of(told)[part] == sent["shape"][part], (sent["case"], part)


@pytest.mark.slow
def test_it_runs(serve, longmem, keys):
    folder = os.environ.get(PACKAGE)
    if folder is None or shutil.which("node") is None:
        pytest.skip(f"needs node, and {PACKAGE}: a folder in which npm install openai was run")
    command = ["node", str(HERE / "client.mjs"), serve(longmem).url, keys.create("mine", user="me")[1]]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=True)
    found = dict(json.loads(line) for line in ran.stdout.splitlines())
    assert found == {
        "answer": ["chat.completion", "length", 3, "me"],
        "stream": ["assistant", "length", True],
        "streamHelper": ["assistant", "length"],
        "calls": ["tool_calls", "weather", ["city"]],
        "callsInAStream": ["city"],
        "schema": ["city"],
        "logprobs": [1, 1],
        "embeddings": [2, True],
        "responses": [True, True, "incomplete"],
        "responseStream": [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.incomplete",
        ],
        "conversations": [1, True],
        "models": ["tiny-llama"] * 3,
        "errors": [
            ["NotFoundError", 404, "model_not_found"],
            ["BadRequestError", 400, None],
            ["AuthenticationError", 401, "invalid_api_key"],
        ],
        "cancelled": True,
    }
