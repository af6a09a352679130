"""What stands before the routes stands before them below any path, too."""

from __future__ import annotations

from types import SimpleNamespace

import openai
import pytest
from conftest import Running
from starlette.applications import Starlette
from starlette.routing import Mount

from ltm.serve.app import Server
from ltm.serve.gate import path_below
from ltm.serve.settings import ServeSettings


@pytest.mark.parametrize(
    "path, root, below",
    [("/v1/x", "", "/v1/x"), ("/a/v1/x", "/a", "/v1/x"), ("/v1/x", "/v1", "/x"), ("/ab/v1", "/a", "/ab/v1")],
)
def test_a_path_below_where_the_application_lies(path, root, below):
    assert path_below({"path": path, "root_path": root}) == below


def test_below_a_path_of_a_proxy_the_same_limits_hold(tmp_path, keys, text_model):
    server = Server(
        ServeSettings.load(data_dir=tmp_path / "data", key_requests_per_minute=2, max_tokens=4), keys, text_model
    )
    running = Running(SimpleNamespace(app=Starlette(routes=[Mount("/memory", server.app)])))
    client = running.client(keys.create("mine", user="me")[1])
    client = client.with_options(base_url=f"{running.url}/memory/v1")
    ask = {"model": "tiny-llama", "messages": [{"role": "user", "content": "Hello"}]}
    headers = {"Idempotency-Key": "once"}
    first, again = (client.chat.completions.create(**ask, extra_headers=headers) for _ in range(2))
    assert first.id == again.id
    with pytest.raises(openai.RateLimitError):
        client.models.list()
    running.stop()
    server.close()
