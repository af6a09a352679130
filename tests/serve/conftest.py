"""A served model on a tiny random backbone, whose words mean nothing but whose memory is real."""

from __future__ import annotations

import time
from threading import Thread

import pytest
import uvicorn
from openai import OpenAI

from ltm.backbone import load_backbone
from ltm.methods import create_method
from ltm.methods.registry import method_class
from ltm.serve.app import Server
from ltm.serve.keys import KeyStore
from ltm.serve.served_model import ServedModel
from ltm.serve.settings import ServeSettings
from ltm.serve.users import Users
from ltm.text.means import Means

OPTIONS = {"reduction_factor": 2, "chunk_size": 4, "retrieved_tokens": 8, "segment_size": 32, "start": "paper"}
OPTIONS |= {"memory_size": 4096, "local_window": 256, "pointer_tokens": 64}


TEMPLATE = "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}assistant: "


@pytest.fixture(scope="session")
def backbone():
    """tiny-llama as a model that was made to chat: without a template an answer would end with its first line."""
    loaded = load_backbone("tiny-llama")
    loaded.tokenizer.chat_template = TEMPLATE
    return loaded


@pytest.fixture(scope="session")
def longmem(backbone):
    """A model that remembers in banks; found by words alone, so that no encoder is loaded."""
    return ServedModel(backbone, create_method("longmem", backbone, **OPTIONS), encoder=None)


@pytest.fixture(scope="session")
def text_model(backbone):
    """A model whose memory is text."""
    rag = method_class("rag")
    return ServedModel(backbone, rag.open(rag.config_class(encoder="hash"), Means(backbone)))


@pytest.fixture(params=["longmem", "text_model"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def keys(tmp_path):
    store = KeyStore(tmp_path / "data")
    yield store
    store.close()


class Running:
    """A server on a free port of this machine, in a thread."""

    def __init__(self, server):
        self.server = server
        config = uvicorn.Config(server.app, host="127.0.0.1", port=0, log_level="warning", ws="none")
        self.uvicorn = uvicorn.Server(config)
        self.thread = Thread(target=self.uvicorn.run, daemon=True)
        self.thread.start()
        wait_for(lambda: self.uvicorn.started)
        port = self.uvicorn.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def client(self, key, **options):
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60, **options)

    def stop(self):
        self.uvicorn.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


def wait_for(condition, seconds=20.0):
    """Until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


@pytest.fixture
def serve(tmp_path, keys):
    """serve(model, setting=...) -> Running, on the data directory of `keys`; stopped at the end."""
    running = []

    def start(model, **settings):
        made = Server(ServeSettings.load(data_dir=tmp_path / "data", **{"max_tokens": 8, **settings}), keys, model)
        running.append(Running(made))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture
def key(keys):
    """Bound to the user me."""
    return keys.create("mine", user="me")[1]


@pytest.fixture
def me(running, key):
    """The client of that key; running: the server that a file's tests want."""
    return running.client(key)


@pytest.fixture
def users(model, keys, tmp_path):
    """Memories without a server."""
    made = Users(tmp_path / "data", model, keys, budget=10**9)
    yield made
    made.close()
