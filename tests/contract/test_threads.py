"""One loaded model and several threads: each gets what it would get alone, for every method."""

from __future__ import annotations

import contextvars
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Thread

import pytest
import torch
from transformers import TextIteratorStreamer

from ltm.methods import METHODS, Reader
from ltm.text.session import Session

READERS = METHODS.of(Reader)

THREADS, PATIENCE = 4, 120
"""How many, and the seconds after which a call that waits for another counts as waiting for ever."""


@pytest.fixture(params=READERS)
def build(request, tiny_backbone):
    """A function that makes methods of one kind on one backbone, with weights that make memory matter."""

    def make(**options):
        torch.manual_seed(1)
        method_class = METHODS[request.param]
        config = method_class.config_class.tiny()
        return method_class(tiny_backbone("tiny-llama"), config).eval()

    return make


@pytest.fixture(autouse=True)
def threads_change_often():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def tokens(rows, length, seed):
    return torch.randint(5, 90, (rows, length), generator=torch.Generator().manual_seed(seed))


def together(calls):
    """What calls return that are made at the same time."""
    with ThreadPoolExecutor(THREADS) as pool:
        return [future.result(timeout=PATIENCE) for future in [pool.submit(call) for call in calls]]


def scored(method, seed):
    with torch.no_grad():
        return method(tokens(1, 15, seed)).logits


def generated(method, seed):
    return method.generate(tokens(1, 5, seed), max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0)


def test_scoring_and_generating_give_what_they_give_alone(build):
    method, other = build(), build()
    method.read(tokens(1, 37, 7))
    other.read(tokens(1, 30, 8))
    calls = [
        lambda run=run, each=each, seed=seed: run(each, seed)
        for seed in range(2)
        for run in (scored, generated)
        for each in (method, other)
    ]
    alone = [call() for call in calls]
    assert len({tuple(found.flatten().tolist()) for found in alone}) > 4  # they differ from each other
    assert all(torch.equal(one, both) for one, both in zip(alone, together(calls), strict=True))


def test_reading_into_two_memories_is_reading_into_each(build):
    alone, methods = [build(), build()], [build(), build()]
    texts = [tokens(1, 45, 3), tokens(1, 45, 4)]
    for method, text in zip(alone, texts, strict=True):
        method.read(text)
    reads = [lambda m=m, t=t: m.read(t) for m, t in zip(methods, texts, strict=True)]
    together([*reads, lambda: scored(build(), 1), lambda: scored(build(), 2)])
    for one, both in zip(alone, methods, strict=True):
        assert torch.equal(scored(both, 5), scored(one, 5))


def test_a_trace_and_a_switch_belong_to_their_thread(build):
    method = build()
    if method.bank is None and not method.keeps_bank:
        pytest.skip("keeps no bank, so nothing is traced")
    method.use_bank(method.new_bank(1))
    method.read(tokens(1, 37, 7))

    def traced(seed):
        with method.trace() as trace:
            scored(method, seed)
        return [(used.slot, used.weight) for used in trace.total(0)], len(trace.tokens(0))

    def off(seed):
        with method.memory_off():
            return scored(method, seed).tolist(), 0

    calls = [lambda run=run, seed=seed: run(seed) for seed in range(3) for run in (traced, off)]
    alone = [call() for call in calls]
    assert alone[0][0] and alone[0] != alone[2]
    assert together(calls) == alone


def test_a_block_may_end_in_another_context_than_it_began_in(session):
    """As of a generator that a web server goes on with from one thread or another."""

    def streamed():
        with session.method.trace() as trace, session.method.memory_off():
            yield not session.method.is_off, session.method.tracing is trace

    steps = streamed()
    assert contextvars.copy_context().run(next, steps) == (False, True)
    assert list(steps) == [] and not session.method.is_off and session.method.tracing is None


def test_the_plain_model_sees_nothing_of_what_another_thread_attached(build, tiny_backbone):
    method, model = build(), tiny_backbone("tiny-llama").model
    method.read(tokens(1, 37, 7))

    def plain(seed):
        with torch.no_grad():
            return model(tokens(1, 15, seed)).logits

    calls = [lambda run=run, seed=seed: run(seed) for seed in range(3) for run in (plain, lambda s: scored(method, s))]
    alone = [call() for call in calls]
    for one, both in zip(alone, together(calls), strict=True):
        torch.testing.assert_close(both, one, atol=1e-5, rtol=1e-5)  # 'sdpa' or 'ltm', as it happens


@pytest.fixture
def session(tiny_backbone):
    config = replace(METHODS["longmem"].config_class.tiny(), memory_size=4096)
    return Session(METHODS["longmem"](tiny_backbone("tiny-llama"), config).eval())


TEXTS = {f"text {number}": f"{word} went to sea in ships. " * 3 for number, word in enumerate(["Ann", "Bob", "Cid"])}


def test_answers_name_their_own_passages(session):
    """3 of 96 named another's when traces were one for all threads."""
    for name, text in TEXTS.items():
        session.read(text, name)

    def ask(text):
        answer = session.ask(text, max_new_tokens=3, trace=True)
        return answer.token_ids, answer.passages, answer.trace

    calls = [lambda text=text: ask(text[:9]) for text in TEXTS.values()] * 2
    alone = [call() for call in calls]
    assert all(passages for _, passages, _ in alone) and alone[0] != alone[1]
    assert together(calls) == alone


def test_documents_read_at_once_are_whole(session, monkeypatch):
    monkeypatch.setattr("ltm.text.reading.BLOCK_TOKENS", 16)
    together([lambda name=name, text=text: session.read(text, name) for name, text in TEXTS.items()])
    assert {info.name: info.complete for info in session.documents} == dict.fromkeys(TEXTS, True)
    assert session.method.bank.num_tokens(0) == sum(map(len, TEXTS.values()))
    order = session.method.bank.chunks(0)["documents"].tolist()
    assert order == sorted(order)  # one after another, not in each other


def test_a_stream_of_text_in_a_traced_block_comes_to_its_end(session):
    """The usual way to stream: generate in a thread of its own, while the block is open in this one."""
    session.read(TEXTS["text 0"], "text 0")
    streamer = TextIteratorStreamer(session.tokenizer, skip_prompt=True, timeout=PATIENCE)
    ids = session.tokenizer("Ann", return_tensors="pt")["input_ids"]
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with session.method.trace():
        thread = Thread(target=session.method.generate, args=(ids,), kwargs={"streamer": streamer, **options})
        thread.start()
        streamed = "".join(streamer)
        thread.join(PATIENCE)
    out = session.method.generate(ids, **options)
    assert not thread.is_alive() and streamed == session.tokenizer.decode(out[0, ids.shape[1] :])


def test_who_is_told_the_text_as_it_comes_may_ask_again(session):
    session.read(TEXTS["text 0"], "text 0")
    inner = []
    answer = session.ask("Ann", max_new_tokens=3, on_text=lambda _: inner.append(session.ask("Bob", max_new_tokens=2)))
    assert inner and answer.token_ids == session.ask("Ann", max_new_tokens=3).token_ids
