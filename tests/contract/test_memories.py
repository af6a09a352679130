"""A method is not what it has read: every reader with memories that are handed in, kept, moved and shared."""

from __future__ import annotations

import copy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from contract.families import CLOSE, build, far_apart, logits, methods_of, tokens

from ltm.backbone import load_backbone
from ltm.errors import BankMismatchError, LtmError
from ltm.methods import Reader

READERS = methods_of(Reader)
PAST, OTHER = tokens(1, 37, seed=7), tokens(1, 30, seed=8)
ASKED = {"max_new_tokens": 4, "num_beams": 2, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


@pytest.fixture(params=READERS)
def method(request, tiny_backbone):
    return build(request.param, tiny_backbone("tiny-llama", "float64"))


def read(method, *pasts, rows=1):
    """A memory of its own that has read something."""
    memory = method.new_memory(rows)
    for past in pasts:
        method.read(past.expand(rows, -1), memory=memory)
    return memory


def asked(method, **memory):
    """What a method says of a present, scored in pieces that leave its window, and written with beams."""
    ids, stream = tokens(1, 21, seed=3), method.new_cache()
    with torch.no_grad():
        pieces = [method(piece, cache=stream, use_cache=True, **memory).logits for piece in ids.split(9, dim=1)]
    return torch.cat(pieces, dim=1), method.generate(ids[:, :5], **ASKED, **memory)


def same(found, expected):
    return all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_two_memories_on_one_model_are_two_models(method, tiny_backbone):
    """Read and asked in turns, each is what a method of its own has; the method's own memory is a third."""
    first, second = method.new_memory(), method.new_memory()
    for piece, other in zip(PAST.split(12, dim=1), OTHER.split(10, dim=1), strict=False):
        method.read(piece, memory=first)
        method.read(other, memory=second)
        logits(method, tokens(1, 5), memory=first)
    alone = [build(method.name, tiny_backbone("tiny-llama", "float64")) for _ in range(2)]
    for piece, other in zip(PAST.split(12, dim=1), OTHER.split(10, dim=1), strict=False):
        alone[0].read(piece)
        alone[1].read(other)
    assert same(asked(method, memory=first), asked(alone[0]))
    assert same(asked(method, memory=second), asked(alone[1]))
    assert far_apart(asked(method, memory=first)[0], asked(method, memory=second)[0])
    assert method.bank is None and same(asked(method), asked(method, memory=method.new_memory()))


def test_two_people_at_once_get_what_each_gets_alone(method):
    memories = [read(method, PAST), read(method, OTHER)]
    alone = [asked(method, memory=memory) for memory in memories]
    with ThreadPoolExecutor(4) as pool:
        runs = [(who, pool.submit(asked, method, memory=memories[who])) for who in (0, 1, 0, 1, 0, 1)]
        assert all(same(run.result(timeout=120), alone[who]) for who, run in runs)


def test_a_stream_goes_on_with_the_memory_it_began_with(method):
    memory, ids = read(method, PAST), tokens(1, 9, seed=3)
    method.read(OTHER)
    whole = logits(method, ids, memory=memory)
    stream = method.new_cache()
    first = logits(method, ids[:, :4], memory=memory, cache=stream, use_cache=True)
    rest = logits(method, ids[:, 4:], cache=stream, use_cache=True)
    torch.testing.assert_close(torch.cat((first, rest), dim=1), whole, **CLOSE)
    assert far_apart(logits(method, ids), whole)


def test_no_memory_is_none_at_all(method):
    method.read(PAST)
    off = logits(method, tokens(1, 9), memory=None)
    method.read(OTHER, memory=None)
    with method.memory_off():
        assert torch.equal(logits(method, tokens(1, 9)), off)
    assert far_apart(logits(method, tokens(1, 9)), off)
    method.reset()
    nothing = logits(method, tokens(1, 9), memory=method.new_memory())  # what RMT puts before a text that starts
    torch.testing.assert_close(logits(method, tokens(1, 9)), nothing, **CLOSE)


def test_chosen_rows_are_the_rows_and_go_their_own_way(method):
    memory = method.new_memory(2)
    method.read(torch.cat((PAST[:, :30], OTHER)), memory=memory)
    ids = tokens(2, 9)
    both = logits(method, ids, memory=memory)
    chosen = memory.select([1, 0, 1])
    assert chosen.num_rows == 3
    found = logits(method, ids[[1, 0, 1]], memory=chosen)
    torch.testing.assert_close(found, both[[1, 0, 1]], **CLOSE)
    method.read(tokens(3, 14, seed=9), memory=chosen)
    assert far_apart(logits(method, ids[[1, 0, 1]], memory=chosen), found)
    assert torch.equal(logits(method, ids, memory=memory), both)


def test_reset_forgets_a_row_or_all(method):
    memory, fresh = method.new_memory(2), method.new_memory(2)
    method.read(torch.cat((PAST[:, :30], OTHER)), memory=memory)
    ids, before = tokens(2, 9), logits(method, tokens(2, 9), memory=memory)
    memory.reset([0])
    after, nothing = logits(method, ids, memory=memory), logits(method, ids, memory=fresh)
    torch.testing.assert_close(after[1], before[1], **CLOSE)
    torch.testing.assert_close(after[0], nothing[0], **CLOSE)
    assert not memory.is_empty and memory.nbytes > 0
    memory.reset()
    assert memory.is_empty
    torch.testing.assert_close(logits(method, ids, memory=memory), nothing, **CLOSE)


def test_a_read_that_fails_leaves_a_memory_as_it_was(method, monkeypatch):
    memory = read(method, PAST)
    before = asked(method, memory=memory)

    def failing(*arguments, **options):
        raise MemoryError("in the middle of it")

    if type(method).__name__ == "NGram":
        pytest.skip("reads without its backbone")
    monkeypatch.setattr(type(method.backbone.view.layers[2]), "forward", failing)
    with pytest.raises(MemoryError):
        method.read(OTHER, memory=memory)
    monkeypatch.undo()
    assert same(asked(method, memory=memory), before)


def test_a_memory_of_another_method_or_model_is_refused(method, tiny_backbone):
    other_model = build(method.name, tiny_backbone("tiny-qwen3", "float64"))
    memory = read(method, PAST)
    before = asked(method, memory=memory)
    with pytest.raises(BankMismatchError):
        other_model.read(OTHER, memory=memory)
    with pytest.raises(BankMismatchError):
        logits(other_model, tokens(1, 5), memory=memory)
    stranger = build("em_llm" if method.name != "em_llm" else "memorizing", method.backbone)
    with pytest.raises(BankMismatchError):
        logits(stranger, tokens(1, 5), memory=memory)
    assert same(asked(method, memory=memory), before)


def test_a_saved_memory_of_another_kind_is_refused(method, tmp_path):
    read(method, PAST).save(tmp_path / "memory")
    stranger = build("em_llm" if method.name != "em_llm" else "memorizing", method.backbone)
    with pytest.raises(LtmError):
        stranger.load_memory(tmp_path / "memory")
    with pytest.raises(LtmError):
        method.load_memory(tmp_path / "none")


def test_saved_memories_answer_in_another_process(tiny_backbone, tmp_path):
    """One process for all methods: to start one takes longer than what is asked of it."""
    for name in READERS:
        method = build(name, tiny_backbone("tiny-llama", "float64"))
        memory = method.new_memory(2)
        method.read(torch.cat((PAST[:, :30], OTHER)), memory=memory)
        memory.save(tmp_path / name)
        kept = logits(method, tokens(1, 9), memory=memory.select([1]))
        torch.save(kept, tmp_path / f"{name}.pt")
    command = f"from contract.test_memories import answer_again; answer_again({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", command], check=True, cwd=Path(__file__).parents[1])


def answer_again(folder: str) -> None:
    """What the other process does."""
    backbone = load_backbone("tiny-llama", dtype="float64")
    for name in READERS:
        method = build(name, backbone)
        memory = method.load_memory(f"{folder}/{name}")
        found = logits(method, tokens(1, 9), memory=memory.select([1]))
        torch.testing.assert_close(found, torch.load(f"{folder}/{name}.pt"), **CLOSE, msg=lambda m, n=name: f"{n}: {m}")
        method.read(tokens(2, 11, seed=5), memory=memory)  # and it can be read on with


def test_a_copied_stream_shares_the_memory_it_reads(method):
    """transformers' users copy the cache of a prompt; a bank of gigabytes must not be copied with it."""
    memory, stream = read(method, PAST), method.new_cache()
    logits(method, tokens(1, 9), memory=memory, cache=stream, use_cache=True)
    copied = copy.deepcopy(stream)
    assert copied.memory is stream.memory is memory
    ids = tokens(1, 5, seed=4)
    first = logits(method, ids, cache=stream, use_cache=True)
    assert torch.equal(logits(method, ids, cache=copied, use_cache=True), first)


def test_open_streams_fork(method):
    """One prefix, gone on with in two ways, is what each would be alone."""
    memory, prefix, ends = read(method, PAST), tokens(1, 13, seed=1), tokens(2, 6, seed=2)
    stream = method.stream(memory)
    stream.push(prefix)
    forked = stream.fork([0, 0]).push(ends)
    for row in range(2):
        alone = logits(method, torch.cat((prefix, ends[row : row + 1]), dim=1), memory=memory)
        torch.testing.assert_close(forked[row], alone[0, 13:], **CLOSE)
    assert stream.num_tokens == 13 and stream.nbytes > 0
