"""Killed at any moment, a server loses nothing that it said was written, and starts again by itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from random import Random
from threading import Thread

import openai
import pytest
from conftest import wait_for

from ltm.methods import create_method
from ltm.serve.identity import Caller
from ltm.serve.keys import KeyStore
from ltm.serve.served_model import ServedModel
from ltm.serve.users import Users


def start(tmp_path, sidenet):
    """(process, address) of a server."""
    options = ["--model", "tiny-llama", "--sidenet", sidenet, "--port", "0", "--data-dir", tmp_path / "data"]
    process = subprocess.Popen([sys.executable, "-m", "ltm", "serve", *options], stdout=-3, stderr=-1, text=True)
    said = ""
    while (line := process.stderr.readline()) and "curl" not in line:
        said += line
    return process, re.search(r"http://\S+:\d+", said)[0]


def talk(url, key, number, written):
    """Say one thing after another, until nobody answers."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=20)
    for turn in range(1000):
        text = f"Fact {number}.{turn}: the number of box {turn} is {turn * 7}."
        messages = [{"role": "user", "content": text}]
        try:
            made = client.chat.completions.create(model="tiny-llama", messages=messages, max_tokens=2)
        except openai.APIError:
            return
        written += made.model_extra["memory"]["written"]


def has_grown(values, least):
    return len(values) >= least


@pytest.mark.slow
def test_what_was_said_to_be_written_is_there_after_any_kill(tiny_backbone, tmp_path):
    random, written = Random(3), []
    options = {"reduction_factor": 2, "chunk_size": 4, "retrieved_tokens": 8, "segment_size": 32, "start": "paper"}
    method = create_method("longmem", tiny_backbone("tiny-llama"), **options)
    method.save_pretrained(tmp_path / "sidenet")
    keys = KeyStore(tmp_path / "data")
    _, key = keys.create("mine", user="me")
    for number in range(8):
        began = time.monotonic()
        process, url = start(tmp_path, tmp_path / "sidenet")
        thread = Thread(target=talk, args=(url, key, number, written))
        thread.start()
        wait_for(partial(has_grown, written, len(written) + random.randint(1, 4)), 60)
        time.sleep(random.uniform(0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        thread.join(30)
        assert time.monotonic() - began < 60
    users = Users(tmp_path / "data", ServedModel(method.backbone, method, encoder=None), keys, budget=10**9)
    with users.using(Caller("default", "me")) as memory:
        logged = [memory.log.by_id(turn) for turn in written]
        assert len(written) >= 8 and None not in logged
        held = [info.name for info in memory.session.documents]
        assert len(held) == len(set(held)) and {turn.name for turn in logged if turn.role == "user"} <= set(held)
    users.close()
    keys.close()
