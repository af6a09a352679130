"""What a chat with the server remembers: 20 days of a scripted conversation, the server restarted between any two.

    python benchmarks/measurements/chat_memory.py

One person says 30 facts, corrects 12 of them on a later day, has 6 forgotten, talks about other things, and asks for
every fact in two wordings on days when nothing of it stands in the conversation. The same script is held with memory
off, `text` (rag), and `longmem`: with the memory attached, with its passages in the prompt, with both. Answers are
greedy. A 135M model phrases little, so beside the answer (does it say the value in force?) two things are counted that
do not hang on its words: whether the turn that says it was recalled, and whether that value is the likeliest answer of
five, the value before the correction among them. Writes benchmarks/results/chat_memory.json.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import torch
import uvicorn
from chat_script import KINDS, Fact, ScriptTurn, chat
from common import machine, print_table, write_result
from openai import OpenAI

from ltm.console import notice
from ltm.serve.app import Server
from ltm.serve.identity import Caller
from ltm.serve.keys import KeyStore
from ltm.serve.served_model import ServedModel
from ltm.serve.settings import ServeSettings
from ltm.tasks.intervals import wilson_interval

ARMS = {
    "off": {"memory": "off"},
    "text": {"memory": "text"},
    "longmem, attached": {"memory": "longmem", "recall": "memory"},
    "longmem, passages": {"memory": "longmem", "recall": "text"},
    "longmem, both": {"memory": "longmem", "recall": "both"},
}
NUM_CHOICES = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--seeds", type=int, default=1, help="scripts, each with other facts and another order")
    parser.add_argument("--tokens", type=int, default=24, help="most tokens of an answer")
    parser.add_argument("--arms", default=";".join(ARMS), help="with semicolons")
    parser.add_argument("--name", default="chat_memory", help="of the result file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for arm in arguments.arms.split(";"):
        asked = []
        with tempfile.TemporaryDirectory() as directory:
            settings = ServeSettings.load(model=arguments.model, port=0, **ARMS[arm], data_dir=Path(directory))
            model = ServedModel.load(settings)
            for seed in range(arguments.seeds):
                asked += ScriptedChat(model, settings, seed, arguments.tokens).hold()
        results.append({"memory": arm, "shares": shares(asked), "asked": asked})
        notice(f"{arm}: " + ", ".join(f"{name} {one['share']:.0%}" for name, one in results[-1]["shares"].items()))
    print_table(*table(results))
    write_result(arguments.name, {"config": vars(arguments), "machine": machine(), "results": results})


class ScriptedChat:
    """One script, held with one server after another on the same data."""

    def __init__(self, model: ServedModel, settings: ServeSettings, seed: int, tokens: int):
        self.model, self.settings, self.seed, self.tokens = model, settings, seed, tokens
        self.user = f"person {seed}"
        self.days, self.facts = chat(seed), defaultdict(lambda: Fact(0))
        self.rng = random.Random(seed)

    def hold(self) -> list[dict[str, Any]]:
        """What became of every question."""
        asked = []
        for number, day in enumerate(self.days):
            with running(self.model, self.settings) as (server, url, key):
                client = OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=600)
                messages: list[dict[str, str]] = []
                for turn in day:
                    if turn.kind == "forget":
                        self._forget(client, turn)
                        continue
                    reply = self._say(client, messages, turn)
                    if turn.kind == "ask":
                        asked.append({"day": number, **self._judged(server, turn, messages, reply)})
        return asked

    def _say(self, client: OpenAI, messages: list[dict[str, str]], turn: ScriptTurn) -> Any:
        messages.append({"role": "user", "content": turn.text})
        started = time.perf_counter()
        reply = client.chat.completions.create(
            model=self.model.name,
            messages=messages,
            max_tokens=self.tokens if turn.kind == "ask" else 8,
            temperature=0,
            extra_headers={"X-LTM-User": self.user},
        )
        reply.seconds = time.perf_counter() - started
        messages.append({"role": "assistant", "content": reply.choices[0].message.content})
        if turn.kind in ("say", "correct"):
            fact = self.facts[turn.fact]
            fact.kind = turn.fact
            fact.values.append(turn.value)
            fact.ids.append((reply.memory["written"] or [None])[0])
        return reply

    def _forget(self, client: OpenAI, turn: ScriptTurn) -> None:
        fact = self.facts[turn.fact]
        fact.forgotten = True
        if self.settings.memory != "off":
            receipt = client.delete(
                f"/memory/items/{fact.ids[-1]}", cast_to=object, options={"headers": {"X-LTM-User": self.user}}
            )
            assert receipt["probe"]["documents"] == receipt["probe"]["found"] == 0, receipt

    def _judged(self, server: Server, turn: ScriptTurn, messages: list[dict[str, str]], reply: Any) -> dict[str, Any]:
        fact, text = self.facts[turn.fact], reply.choices[0].message.content
        used = [one["id"] for one in reply.memory["used"]]
        choices = [fact.values[-1], *fact.values[:-1]]
        choices += self.rng.sample(fact.others, NUM_CHOICES - len(choices))
        likelihoods = self._likelihoods(server, turn, choices)
        return {
            "question": turn.text,
            "wording": turn.wording,
            "kind": "forgotten" if fact.forgotten else "changed" if len(fact.values) > 1 else "once",
            "value": fact.values[-1],
            "answer": text,
            "says": fact.values[-1].lower() in text.lower(),
            "says_old": any(old.lower() in text.lower() for old in fact.values[:-1]),
            "recalled": fact.ids[-1] in used,
            "recalled_old": any(old in used for old in fact.ids[:-1]),
            "num_recalled": len(used),
            "likeliest": likelihoods.index(max(likelihoods)) == 0,
            "seconds": reply.seconds,
            "prompt_tokens": reply.usage.prompt_tokens,
            "cached_tokens": reply.usage.prompt_tokens_details.cached_tokens,
        }

    def _likelihoods(self, server: Server, turn: ScriptTurn, choices: Sequence[str]) -> list[float]:
        """Of the statement with each value, as the reply to the question."""
        replies = [KINDS[turn.fact][0].format(value).replace("My ", "Your ").replace("I ", "You ") for value in choices]
        caller = Caller("default", self.user)

        def work() -> list[float]:
            if self.settings.memory == "off":
                return self.model.plain.answer_likelihoods(turn.text, replies, recall="off", instruction="")
            with server.users.using(caller) as memory:
                how = {"recall": "text" if self.settings.memory == "text" else self.settings.recall}
                return memory.session.answer_likelihoods(turn.text, replies, instruction="", **how)

        return server.engine.run(caller.turn, work).result()


@contextmanager
def running(model: ServedModel, settings: ServeSettings) -> Iterator[tuple[Server, str, str]]:
    """A server on the data directory, its address and a gateway's key; stopped at the end."""
    keys = KeyStore(settings.directory)
    server = Server(settings, keys, model)
    _, key = keys.create("benchmark")
    web = uvicorn.Server(uvicorn.Config(server.app, port=0, log_level="error", ws="none"))
    thread = Thread(target=web.run, daemon=True)
    thread.start()
    try:
        while not web.started:
            time.sleep(0.01)
        port = web.servers[0].sockets[0].getsockname()[1]
        yield server, f"http://127.0.0.1:{port}", key
    finally:
        web.should_exit = True
        thread.join()
        keys.close()


COLUMNS = {
    "facts said once": ("once", "says"),
    "recalled ": ("once", "recalled"),
    "likeliest ": ("once", "likeliest"),
    "corrected facts": ("changed", "says"),
    "the old one said": ("changed", "says_old"),
    "recalled": ("changed", "recalled"),
    "likeliest": ("changed", "likeliest"),
    "forgotten, said": ("forgotten", "says"),
    "forgotten, recalled": ("forgotten", "recalled"),
}


def shares(asked: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the questions about each kind of fact, the share with each outcome, and the 95% interval of its own."""
    found: dict[str, Any] = {}
    for name, (kind, outcome) in COLUMNS.items():
        own = [one[outcome] for one in asked if one["kind"] == kind]
        found[name] = {
            "share": sum(own) / len(own),
            "of": len(own),
            "interval": wilson_interval(sum(own), len(own))._asdict(),
        }
    return found


def table(results: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows for people."""
    rows = [
        [one["memory"], *(f"{share['share']:.0%} of {share['of']}" for share in one["shares"].values())]
        for one in results
    ]
    return ["memory", *COLUMNS], rows


if __name__ == "__main__":
    main()
