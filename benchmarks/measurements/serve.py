"""What the server costs: soon it answers, how many at once, what a memory adds, and what a long chat encodes again.

    python benchmarks/measurements/serve.py --data data --transformers PATH/TO/transformers

Everything in one run on one model, `ltm serve` as a process of its own with its memory on, beside `transformers serve`
(a command of an environment that has its extra `serving`; left out, its rows are) on the same weights, greedy:

- first word and tokens a second for 1, 4 and 16 clients that ask at the same time,
- first word for a user of whom 64k tokens are remembered and for one of whom nothing is, asked in turn,
- tokens encoded in a chat of 100 turns whose client sends the whole history each time,
- opening a memory of 64k tokens that is closed, writing a turn to the log, and a start with 1,000 users on the disk.

Writes benchmarks/results/serve.json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import free_port, machine, print_table, write_result
from openai import OpenAI

from ltm.backbone import load_backbone
from ltm.console import notice
from ltm.serve.identity import Caller
from ltm.serve.keys import KeyStore, utc_now
from ltm.serve.served_model import ServedModel
from ltm.serve.settings import ServeSettings
from ltm.serve.turn_log import TurnLog
from ltm.serve.users import USERS, Users
from ltm.tasks.data import DataSource

MODEL = "smollm2-135m"
CLIENTS, ANSWER_TOKENS = (1, 4, 16), 32
MEMORY_TOKENS, PIECE_CHARS = 65_536, 20_000
CHAT_TURNS, NUM_USERS = 100, 1_000
PROMPT = "Write one sentence about {}."
TOPICS = (
    "the sea, a fox, winter, bread, a train, the moon, glass, rain, a violin, salt, maps, ants, ink, stairs, mist, gold"
)


@dataclass(frozen=True)
class Reply:
    """Of a streamed answer: seconds to its first text and to its end, and how many pieces it came in."""

    first: float
    seconds: float
    tokens: int
    prompt_tokens: int = 0
    cached_tokens: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--transformers", help="the command of an environment with transformers[serving]")
    parser.add_argument("--rounds", type=int, default=3, help="answers of each client, questions of each user")
    parser.add_argument("--turns", type=int, default=CHAT_TURNS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        if arguments.transformers:
            with peer(arguments.transformers, folder) as client:
                found["transformers serve"] = under_load(client, "peer", arguments.rounds)
        with ours(folder / "data") as client:
            found["ltm serve"] = under_load(client, MODEL, arguments.rounds)
            found["remembered"] = remembered(client, arguments.data, arguments.rounds * 5)
            found["chat"] = long_chat(client, arguments.turns)
        found["cold"] = cold(folder / "data")
        found["start"] = start_with_many(folder / "many")
    report(found)
    config = vars(arguments) | {"data": "data", "transformers": bool(arguments.transformers)}
    write_result("serve", {"config": config, "machine": machine(), "results": found})


# servers


@contextmanager
def ours(directory: Path) -> Iterator[OpenAI]:
    """A client of `ltm serve` with a gateway's key."""
    keys = KeyStore(directory)
    _, key = keys.create("benchmark")
    keys.close()
    port = free_port()
    command = [sys.executable, "-m", "ltm", "serve", "--model", MODEL, "--port", str(port), "--data-dir", directory]
    with process(command, f"http://127.0.0.1:{port}/ready"):
        yield OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0, timeout=600)


@contextmanager
def peer(command: str, folder: Path) -> Iterator[OpenAI]:
    """A client of `transformers serve` on the same weights."""
    backbone = load_backbone(MODEL)
    backbone.model.save_pretrained(folder / "peer")
    backbone.tokenizer.save_pretrained(folder / "peer")
    port = free_port()
    words = [command, "serve", folder / "peer", "--port", str(port), "--device", "cpu", "--host", "127.0.0.1"]
    with process(words, f"http://127.0.0.1:{port}/health"):
        yield OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=600)


@contextmanager
def process(command: Sequence[Any], ready: str) -> Iterator[float]:
    """A server that runs in one thread; the seconds until it was ready."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(list(map(str, command)), stdout=said, stderr=said, env=environment)
        try:
            while not answers(ready):
                if child.poll() is not None or time.perf_counter() - started > 300:
                    said.seek(0)
                    raise SystemExit(said.read().decode()[-2000:])
                time.sleep(0.02)
            yield time.perf_counter() - started
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(60)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def ask(client: OpenAI, messages: Sequence[dict[str, str]], user: str, tokens: int = ANSWER_TOKENS) -> Reply:
    """A streamed answer, timed."""
    started, first, pieces, usage = time.perf_counter(), None, 0, None
    model = client.models.list().data[0].id if client.api_key == "none" else MODEL
    stream = client.chat.completions.create(
        model=model,
        messages=list(messages),
        max_tokens=tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_headers={"X-LTM-User": user},
    )
    for chunk in stream:
        usage = chunk.usage or usage
        if chunk.choices and chunk.choices[0].delta.content:
            first = first or time.perf_counter() - started
            pieces += 1
    seconds = time.perf_counter() - started
    details = usage and usage.prompt_tokens_details
    cached = details.cached_tokens if details else 0
    made = usage.completion_tokens if usage else pieces
    return Reply(first or seconds, seconds, made, usage.prompt_tokens if usage else 0, cached or 0)


# measurements


def under_load(client: OpenAI, name: str, rounds: int) -> list[dict[str, Any]]:
    """First words and tokens a second for some clients at once, each a user of its own."""
    topics = TOPICS.split(", ")
    ask(client, [{"role": "user", "content": "Hello."}], "first")
    found = []
    for clients in CLIENTS:

        def talk(number: int) -> list[Reply]:
            prompts = [PROMPT.format(topics[(number + place) % len(topics)]) for place in range(rounds)]
            return [ask(client, [{"role": "user", "content": one}], f"{name}-{number}") for one in prompts]

        started = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            replies = [one for own in pool.map(talk, range(clients)) for one in own]
        seconds = time.perf_counter() - started
        firsts = sorted(reply.first for reply in replies)
        found.append(
            {
                "clients": clients,
                "first word, median s": statistics.median(firsts),
                "first word, 95% s": firsts[min(int(0.95 * len(firsts)), len(firsts) - 1)],
                "tokens a second": sum(reply.tokens for reply in replies) / seconds,
            }
        )
        notice(f"{name}: {found[-1]}")
    return found


def remembered(client: OpenAI, data: Path, questions: int) -> dict[str, Any]:
    """First words for a user with a long past and one without, in turn."""
    text = " ".join(one["text"] for one in DataSource(data).json_lines("books", "test.jsonl.gz"))
    tokenizer = load_backbone(MODEL).tokenizer
    text = tokenizer.decode(tokenizer(text[: 8 * MEMORY_TOKENS])["input_ids"][:MEMORY_TOKENS])
    started = time.perf_counter()
    for start in range(0, len(text), PIECE_CHARS):
        body = {"text": text[start : start + PIECE_CHARS]}
        client.post("/memory/items", cast_to=object, body=body, options={"headers": {"X-LTM-User": "long"}})
    reading = time.perf_counter() - started
    notice(f"read {MEMORY_TOKENS:,} tokens in {reading:.0f} s")
    firsts: dict[str, list[float]] = {"long": [], "none": []}
    for number in range(questions):
        for user in firsts:
            asked = [{"role": "user", "content": f"Who came to the house on day {number}, and why did they come?"}]
            firsts[user].append(ask(client, asked, user, 4).first)
    medians = {user: statistics.median(times[1:]) for user, times in firsts.items()}
    ratios = [long / none for long, none in zip(firsts["long"][1:], firsts["none"][1:], strict=True)]
    return {
        "tokens": MEMORY_TOKENS,
        "reading, s": reading,
        "first word, s": medians,
        "ratio, median": statistics.median(ratios),
        "ratios": ratios,
    }


def long_chat(client: OpenAI, turns: int) -> dict[str, Any]:
    """Tokens that are encoded over a chat whose client sends all of it each time."""
    messages, replies = [], []
    topics = TOPICS.split(", ")
    for number in range(turns):
        messages.append({"role": "user", "content": f"{number}: tell me about {topics[number % len(topics)]}."})
        replies.append(ask(client, messages, "chat", 8))
        messages.append({"role": "assistant", "content": f"It is turn {number}."})
    sent, cached = (sum(getattr(one, name) for one in replies) for name in ("prompt_tokens", "cached_tokens"))
    late = replies[-turns // 5 :]
    return {
        "turns": turns,
        "prompt tokens a turn": sent / turns,
        "encoded a turn": (sent - cached) / turns,
        "share encoded": (sent - cached) / sent,
        "encoded in a late turn": statistics.median(one.prompt_tokens - one.cached_tokens for one in late),
        "first word in a late turn, s": statistics.median(one.first for one in late),
    }


def cold(directory: Path, times: int = 7) -> dict[str, Any]:
    """Opening the long memory, and writing to its log, in this process."""
    model = ServedModel.load(ServeSettings.load(model=MODEL, data_dir=directory))
    keys, opened = KeyStore(directory), []
    for _ in range(times):
        users = Users(directory, model, keys, budget=0)
        started = time.perf_counter()
        with users.using(Caller("default", "long")) as memory:
            opened.append(time.perf_counter() - started)
            assert memory.num_turns
        users.close()
    with tempfile.TemporaryDirectory() as place:
        log = TurnLog(Path(place))
        written = [timed(lambda n=n: log.add([("user", f"This is fact {n}.")], utc_now())) for n in range(300)]
        log.close()
    keys.close()
    return {
        "opening, median s": statistics.median(opened),
        "writing a turn, median ms": 1000 * statistics.median(written),
    }


def timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def start_with_many(directory: Path) -> dict[str, Any]:
    """Until a server is ready that finds so many users' memories on its disk."""
    keys = KeyStore(directory)
    secret = keys.secret
    for number in range(NUM_USERS):
        caller = Caller("default", f"user {number}")
        name = caller.directory(secret)
        place = directory / USERS / name
        place.mkdir(parents=True, mode=0o700)
        keys.note_user(name, caller.tenant, f"user {number}", caller.namespace)
        log = TurnLog(place)
        log.add([("user", f"My number is {number}.")], utc_now())
        log.close()
    keys.create("benchmark")
    keys.close()
    port = free_port()
    command = [sys.executable, "-m", "ltm", "serve", "--model", MODEL, "--port", str(port), "--data-dir", directory]
    with process(command, f"http://127.0.0.1:{port}/ready") as seconds:
        return {"users": NUM_USERS, "ready after, s": seconds}


def report(found: dict[str, Any]) -> None:
    """The tables that people read."""
    rows = [[name, *map(short, row.values())] for name in found if name.endswith("serve") for row in found[name]]
    print_table(["", *found["ltm serve"][0]], rows)
    for name in ("remembered", "chat", "cold", "start"):
        plain = {key: value for key, value in found[name].items() if key != "ratios"}
        print_table([name, *plain], [["", *map(short, plain.values())]])


def short(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps({name: round(one, 3) for name, one in value.items()})
    return f"{value:,.3g}" if isinstance(value, float) else f"{value:,}"


if __name__ == "__main__":
    main()
