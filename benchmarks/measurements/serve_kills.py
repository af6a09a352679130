"""A server that is killed again and again while people write, delete and import: is anything lost, or half there?

    python benchmarks/measurements/serve_kills.py --kills 300

Each server is a fork of this process, so that the model (tiny-llama, LongMem) is loaded once, on a data directory that
goes on from kill to kill. Three clients write turns (streams, responses), add items, delete some of what is there, and
import; after a random time SIGKILL ends the server. The next one must be ready within 5 seconds, hold every write that
was answered, and nothing of what was answered to be deleted. Writes benchmarks/results/serve_kills.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import openai
import torch
import uvicorn
from common import free_port, machine, print_table, write_result
from openai import OpenAI

from ltm.backbone import load_backbone
from ltm.console import notice
from ltm.methods import create_method
from ltm.serve.app import Server
from ltm.serve.keys import KeyStore
from ltm.serve.served_model import ServedModel
from ltm.serve.settings import ServeSettings

CLIENTS, MOST_SECONDS = 3, 1.2
READY_SECONDS = 5.0
OPTIONS: dict[str, Any] = {"reduction_factor": 2, "chunk_size": 4, "retrieved_tokens": 8, "segment_size": 32}
TEMPLATE = "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}assistant: "


class Known:
    """What was answered: texts of items by id, and those of which a deletion was answered or had begun."""

    def __init__(self) -> None:
        self.lock, self.number = Lock(), 0
        self.texts: dict[str, str] = {}
        self.gone: dict[str, str] = {}
        self.calls: Counter[str] = Counter()

    def new_text(self) -> str:
        with self.lock:
            self.number += 1
            return f"Box {self.number} holds the thing w{self.number * 7919 % 100_003:06d}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng, known, ready = random.Random(arguments.seed), Known(), []
    backbone = load_backbone("tiny-llama")
    backbone.tokenizer.chat_template = TEMPLATE
    model = ServedModel(backbone, create_method("longmem", backbone, **OPTIONS, start="paper"), encoder=None)
    with tempfile.TemporaryDirectory() as directory:
        settings = ServeSettings.load(model="tiny-llama", data_dir=Path(directory), user_requests_per_minute=10**9)
        keys = KeyStore(settings.directory)
        _, key = keys.create("person", user="me")
        keys.close()
        before: set[str] = set()
        for number in range(arguments.kills + 1):
            port = free_port()
            started = time.perf_counter()
            child = forked(lambda port=port: serve(settings, model, port))
            client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0, timeout=30)
            wait_ready(client, child)
            ready.append(time.perf_counter() - started)
            last = number == arguments.kills
            check(client, known, set(known.texts) if last or number % 50 == 0 else set(known.texts) - before)
            before = set(known.texts)
            if not last:
                threads = [
                    Thread(target=live, args=(client, known, random.Random(rng.random()))) for _ in range(CLIENTS)
                ]
                for thread in threads:
                    thread.start()
                time.sleep(rng.uniform(0.02, MOST_SECONDS))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            if not last:
                for thread in threads:
                    thread.join()
            if number % 25 == 24:
                notice(f"{number + 1} kills: {len(known.texts)} items, {len(known.gone)} deleted, {dict(known.calls)}")
    found = {
        "kills": arguments.kills,
        "answered calls": dict(known.calls),
        "items there": len(known.texts),
        "deleted": len(known.gone),
        "ready, median s": statistics.median(ready),
        "ready, most s": max(ready),
    }
    assert max(ready) < READY_SECONDS, found
    print_table(["", ""], [[name, json.dumps(value)] for name, value in found.items()])
    write_result("serve_kills", {"config": vars(arguments), "machine": machine(), "results": found})


def forked(call: Callable[[], None]) -> int:
    """The id of a process that does it and ends."""
    child = os.fork()
    if child:
        return child
    try:
        call()
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    finally:
        os._exit(1)


def serve(settings: ServeSettings, model: ServedModel, port: int) -> None:
    server = Server(settings, KeyStore(settings.directory), model)
    uvicorn.Server(uvicorn.Config(server.app, host="127.0.0.1", port=port, log_level="critical", ws="none")).run()


def wait_ready(client: OpenAI, child: int) -> None:
    end = time.perf_counter() + 60
    while time.perf_counter() < end:
        try:
            client.models.list()
            return
        except openai.APIConnectionError:
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "the server did not start"
            time.sleep(0.02)
    raise AssertionError("the server is not ready")


def live(client: OpenAI, known: Known, rng: random.Random) -> None:
    """One thing after another, until nobody answers."""
    calls = (say, say, respond, add, add, delete, bring_in)
    while True:
        call = rng.choice(calls)
        try:
            call(client, known, rng)
        except (openai.APIConnectionError, openai.InternalServerError, StreamBroken):
            return
        with known.lock:
            known.calls[call.__name__] += 1


class StreamBroken(Exception):
    """It ended before it was whole."""


def say(client: OpenAI, known: Known, rng: random.Random) -> None:
    text, memory = known.new_text(), None
    asked = [{"role": "user", "content": text}]
    try:
        for chunk in client.chat.completions.create(model="tiny-llama", messages=asked, max_tokens=3, stream=True):
            memory = chunk.model_extra.get("memory") or memory
    except Exception as error:  # whatever httpx makes of a connection that breaks in a stream
        raise StreamBroken from error
    if memory is None:
        raise StreamBroken
    note(known, memory["written"][0], text)


def respond(client: OpenAI, known: Known, rng: random.Random) -> None:
    text = known.new_text()
    made = client.responses.create(model="tiny-llama", input=text, max_output_tokens=3)
    note(known, made.model_extra["memory"]["written"][0], text)


def add(client: OpenAI, known: Known, rng: random.Random) -> None:
    text = known.new_text()
    made: Any = client.post("/memory/items", cast_to=object, body={"text": text})
    note(known, made["id"], text)


def bring_in(client: OpenAI, known: Known, rng: random.Random) -> None:
    text = known.new_text()
    line = {"type": "entity", "name": f"box {known.number}", "entityType": "box", "observations": [text]}
    headers = {"Content-Type": "application/octet-stream"}
    client.post("/memory/import", cast_to=object, content=json.dumps(line).encode(), options={"headers": headers})


def delete(client: OpenAI, known: Known, rng: random.Random) -> None:
    with known.lock:
        if not known.texts:
            return
        item = rng.choice(list(known.texts))
        text = known.texts.pop(item)  # whether it is gone or not is open until it is answered
    receipt: Any = client.delete(f"/memory/items/{item}", cast_to=object)
    assert receipt["probe"]["documents"] == receipt["probe"]["found"] == 0, receipt
    with known.lock:
        known.gone[item] = text


def note(known: Known, item: str, text: str) -> None:
    with known.lock:
        known.texts[item] = text


def check(client: OpenAI, known: Known, items: set[str]) -> None:
    """Every item of these is there as it was said, the latest deletions are whole."""
    for item in items & set(known.texts):
        made: Any = client.get(f"/memory/items/{item}", cast_to=object)
        assert made["text"] == known.texts[item], (made, known.texts[item])
    for item, text in list(known.gone.items())[-20:]:
        try:
            client.get(f"/memory/items/{item}", cast_to=object)
            raise AssertionError(f"{item} is there again")
        except openai.NotFoundError:
            pass
        hits: Any = client.post("/memory/search", cast_to=object, body={"query": text, "k": 3})
        assert all(hit["text"] != text for hit in hits["data"]), text


if __name__ == "__main__":
    main()
