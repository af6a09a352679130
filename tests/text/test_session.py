"""Text in, text out, with provenance; on a tiny random model, whose words mean nothing but whose memory is real."""

from __future__ import annotations

import pytest
import torch

from ltm.backbone import load_backbone
from ltm.bank import Bank
from ltm.errors import BankMismatchError, ConfigError, LtmError
from ltm.methods import create_method
from ltm.methods.opening import open_method, shipped_weights
from ltm.text.session import Session

OPTIONS = {
    "reduction_factor": 2,
    "chunk_size": 4,
    "retrieved_tokens": 8,
    "segment_size": 32,
    "start": "paper",
}
OPTIONS |= {"memory_size": 4096, "local_window": 64, "pointer_tokens": 64}
BOOK = "Call me Ishmael. Some years ago, never mind how long, I went to sea. The whale is white. " * 5
OTHER = "Queequeg carves a small idol. He is a harpooneer from Kokovoko."


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("tiny-llama")


@pytest.fixture(scope="module")
def sidenet(backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("sidenet")
    create_method("longmem", backbone, **OPTIONS).save_pretrained(path)
    return path


@pytest.fixture
def session(backbone):
    return Session(create_method("longmem", backbone, **OPTIONS))


def test_a_read_text_is_a_document_with_every_token(session):
    info = session.read(BOOK, "moby")
    assert (info.name, info.num_tokens, info.num_chars, info.complete) == ("moby", len(BOOK), len(BOOK), True)
    assert [document.name for document in session.documents] == ["moby"]
    assert session.method.bank.num_tokens(0) == len(BOOK)


def test_reading_in_blocks_is_reading_at_once(backbone, session, monkeypatch):
    session.read(BOOK, "moby")
    monkeypatch.setattr("ltm.text.reading.BLOCK_TOKENS", 64)
    other, seen = Session(create_method("longmem", backbone, **OPTIONS)), []
    other.read(BOOK, "moby", progress=seen.append)
    assert [now.tokens for now in seen] == [*range(64, len(BOOK), 64), len(BOOK)]
    assert seen[-1].chars == seen[-1].total_chars == len(BOOK) and seen[0].bank_bytes < seen[-1].bank_bytes
    query = torch.randn(1, 4, 3, 16, generator=torch.Generator().manual_seed(0))
    one, two = (s.method.bank.retrieve(query, 3) for s in (session, other))
    assert torch.equal(one.hits.slots, two.hits.slots)
    torch.testing.assert_close(one.keys, two.keys, atol=3e-6, rtol=1e-5)  # another batch size, other kernels


def test_an_answer_names_the_passages_it_used(session):
    session.read(BOOK, "moby")
    session.read(OTHER, "idol")
    answer = session.ask("Who?", recall="memory", max_new_tokens=6, trace=True)
    assert 0 < len(answer.token_ids) <= 6 and answer.prompt_tokens == answer.encoded_tokens == len(
        "Question: Who?\nAnswer:"
    )
    assert answer.text == session.tokenizer.decode(answer.token_ids)
    assert answer.passages and all(0 < passage.weight <= 1 for passage in answer.passages)
    assert sum(passage.weight for passage in answer.passages) <= 1
    texts = {"moby": BOOK, "idol": OTHER}
    for passage in answer.passages:
        assert passage.text and texts[passage.document][passage.start : passage.end] == passage.text
    weights = [passage.weight for passage in answer.passages]
    assert weights == sorted(weights, reverse=True)
    assert session.ask("Who?", max_new_tokens=6).passages == []
    assert set(answer.to_dict()) >= {"text", "passages", "tokens_per_second"}


def test_memory_changes_the_answer_and_an_empty_one_gives_no_passages(session):
    empty = session.ask("Who?", max_new_tokens=12, trace=True)
    assert empty.passages == []
    before = session.perplexity("Call me Ishmael").perplexity
    session.read(BOOK, "moby")
    assert session.perplexity("Call me Ishmael").perplexity != pytest.approx(before, rel=1e-4)
    assert session.method.bank.num_tokens(0) == len(BOOK)  # scoring leaves the memory as it is


def test_streamed_text_is_the_answer(session):
    session.read(OTHER, "idol")
    pieces: list[str] = []
    answer = session.continue_text("He is", max_new_tokens=8, on_text=pieces.append)
    assert "".join(pieces) == answer.text and answer.token_ids


def test_same_seed_same_answer(session):
    session.read(OTHER, "idol")
    options = {"max_new_tokens": 12, "temperature": 2.0}
    one, two, three = (session.ask("Who?", seed=seed, **options).token_ids for seed in (1, 1, 2))
    assert one == two != three


def test_an_answer_ends_where_the_model_ends_it(session, monkeypatch):
    first = session.ask("Who?", max_new_tokens=5).token_ids[0]
    monkeypatch.setattr(session.method.generation_config, "eos_token_id", [first])
    answer = session.ask("Who?", max_new_tokens=5)
    assert answer.ended and answer.token_ids == [] and answer.text == ""


def test_the_chat_template_is_used_for_questions_alone(session, monkeypatch):
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    monkeypatch.setattr(session.tokenizer, "chat_template", template)
    assert session.ask("Who?", max_new_tokens=1).prompt_tokens == len("<user>Who?>")
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    asked = session.ask("Who?", history=history, max_new_tokens=1)
    assert asked.prompt_tokens == len("<user>Hi<assistant>Ho<user>Who?>")
    assert session.continue_text("Who?", max_new_tokens=1).prompt_tokens == 4


def test_save_open_and_ask_the_same(session, sidenet, tmp_path):
    path = tmp_path / "moby.bank"
    writer = Session.open(path, "tiny-llama", sidenet=sidenet)
    writer.read(BOOK, "moby")
    expected = writer.ask("Who?", max_new_tokens=6, trace=True)
    reader = Session.open(path, sidenet=sidenet)  # the bank names its backbone
    assert reader.method.backbone.name == "tiny-llama"
    found = reader.ask("Who?", max_new_tokens=6, trace=True)
    assert found.token_ids == expected.token_ids
    assert [p.text for p in found.passages] == [p.text for p in expected.passages]


def test_a_bank_keeps_the_dtype_it_was_made_in(sidenet, tmp_path):
    backbone = load_backbone("tiny-llama", dtype="bfloat16")
    path = tmp_path / "half.bank"
    Session(open_method("longmem", backbone, sidenet), path=path).read(OTHER, "idol")
    assert Session.open(path, sidenet=sidenet).method.backbone.dtype == torch.bfloat16


def test_a_bank_with_other_chunks_is_opened_with_its_own(backbone, tmp_path, sidenet):
    path = tmp_path / "two.bank"
    Session(open_method("longmem", backbone, sidenet, chunk_size=2), path=path).read(OTHER, "idol")
    assert Session.open(path, sidenet=sidenet).method.method_config.chunk_size == 2


def test_a_bank_of_another_model_is_refused(session, sidenet, tmp_path):
    path = tmp_path / "moby.bank"
    Session.open(path, "tiny-llama", sidenet=sidenet).read(OTHER, "idol")
    other = load_backbone("tiny-qwen3")
    create_method("longmem", other, **OPTIONS).save_pretrained(tmp_path / "other")
    with pytest.raises(BankMismatchError, match="architecture"):
        Session.open(path, "tiny-qwen3", sidenet=tmp_path / "other")


def test_a_long_read_saves_as_it_goes(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr("ltm.text.reading.BLOCK_TOKENS", 32)
    monkeypatch.setattr("ltm.text.reading.SAVE_TOKENS", 64)
    path, counts = tmp_path / "moby.bank", []

    def stop_midway(now):
        counts.append(Bank.load(path).num_tokens(0) if Bank.exists(path) else 0)
        if now.tokens >= 200:
            raise KeyboardInterrupt

    session = Session(create_method("longmem", backbone, **OPTIONS), path=path)
    with pytest.raises(KeyboardInterrupt):
        session.read(BOOK, "moby", progress=stop_midway)
    assert counts == [0, 64, 64, 128, 128, 192, 192]
    left = Session(create_method("longmem", backbone, **OPTIONS), path=path)
    left.method.use_bank(Bank.load(path))
    assert [(info.name, info.complete, info.num_tokens) for info in left.documents] == [("moby", False, 192)]
    assert left.read(BOOK, "moby").complete  # the one that was cut off is replaced
    again = Bank.load(path)
    assert [(info.name, info.complete, info.num_tokens) for info in again.documents] == [("moby", True, len(BOOK))]
    assert again.num_tokens(0) == len(BOOK)


class Stop(Exception):
    """What ends a read half-way."""


@pytest.mark.parametrize("save_after", [None, 64])
def test_a_read_that_fails_leaves_the_documents_as_they_were(backbone, tmp_path, monkeypatch, save_after):
    """In memory at once; in the directory, where a part was saved by then, with the next save."""
    monkeypatch.setattr("ltm.text.reading.BLOCK_TOKENS", 32)
    monkeypatch.setattr("ltm.text.reading.SAVE_TOKENS", save_after or 10**6)
    path = tmp_path / "a.bank"
    session = Session(create_method("longmem", backbone, **OPTIONS), path=path)
    session.read(OTHER, "idol")
    before, answer = session.documents, session.ask("Who?", max_new_tokens=4).token_ids

    def stop_midway(now):
        if now.tokens >= 200:
            raise Stop

    with pytest.raises(Stop):
        session.read(BOOK, "moby", progress=stop_midway)
    assert session.documents == before and session.method.bank.num_tokens(0) == len(OTHER)
    assert session.ask("Who?", max_new_tokens=4).token_ids == answer
    assert [info.name for info in Bank.load(path).documents] == ["idol", "moby"][: 2 if save_after else 1]
    session.save()
    assert Bank.load(path).documents == before
    assert session.read(BOOK, "moby").complete and Bank.load(path).documents == session.documents


def test_reading_the_same_document_again_changes_nothing(session):
    first = session.read(BOOK, "moby")
    assert session.read(BOOK, "moby") == first and session.method.bank.num_tokens(0) == len(BOOK)
    with pytest.raises(LtmError, match="another text called moby"):
        session.read(OTHER, "moby")


def test_delete_forgets_one_document_here_and_on_disk(backbone, tmp_path):
    session = Session(create_method("longmem", backbone, **OPTIONS), path=tmp_path / "a.bank")
    session.read(BOOK, "moby")
    session.read(OTHER, "idol")
    assert session.delete("moby").num_tokens == len(BOOK)
    session.save()
    for bank in (session.method.bank, Bank.load(tmp_path / "a.bank")):
        assert [info.name for info in bank.documents] == ["idol"]
        assert bank.num_tokens(0) == len(OTHER)
    files = [file.read_bytes() for file in (tmp_path / "a.bank").rglob("*") if file.is_file()]
    assert files and not any(b"Ishmael" in content for content in files)
    with pytest.raises(LtmError, match="it holds: idol"):
        session.delete("moby")


def test_a_text_shorter_than_a_chunk_is_remembered(session):
    info = session.read("Hi", "short")
    assert info.num_tokens == 2 and info.complete
    assert session.ask("Hi", max_new_tokens=2, trace=True).passages[0].text == "Hi"


def test_an_empty_text_is_refused_and_leaves_nothing(backbone, tmp_path):
    session = Session(create_method("longmem", backbone, **OPTIONS), path=tmp_path / "a.bank")
    with pytest.raises(LtmError, match="holds no text"):
        session.read("", "empty")
    assert session.documents == [] and not (tmp_path / "a.bank").exists()


def test_wrong_options_are_told_together(session):
    with pytest.raises(ConfigError, match=r"max_new_tokens=0.*temperature=-1"):
        session.ask("Who?", max_new_tokens=0, temperature=-1.0)
    with pytest.raises(ConfigError, match="top_q"):
        session.ask("Who?", top_q=1)
    with pytest.raises(LtmError, match="empty"):
        session.ask("  ")
    with pytest.raises(LtmError, match="two or more"):
        session.perplexity("a")


@pytest.mark.parametrize("name", ["window", "tova"])
def test_what_is_read_without_a_bank_lasts_as_long_as_the_session(backbone, name, tmp_path):
    session, seen = Session(create_method(name, backbone)), []
    before = session.perplexity(BOOK[:200]).perplexity
    info = session.read(BOOK[:300], "moby", progress=lambda done: seen.append((done.tokens, done.chars)))
    assert (info.name, info.num_tokens, session.documents, seen) == ("moby", 300, [info], [(300, 300)])
    assert session.perplexity(BOOK[:200]).perplexity != before
    assert session.ask("Who?", max_new_tokens=3).token_ids
    assert session.read(BOOK[:300], "moby") == info and session.method.memory.num_tokens() == 300
    with pytest.raises(LtmError, match="another text called moby"):
        session.read(BOOK[:301], "moby")
    with pytest.raises(LtmError, match="holds no text"):
        session.read("", "nothing")
    for keep in (lambda: session.save(tmp_path), lambda: session.read(BOOK, "more", tmp_path)):
        with pytest.raises(LtmError, match="keeps no bank"):
            keep()


def test_a_text_that_a_stream_cannot_hold_is_refused_before_it_is_read(backbone):
    session = Session(create_method("tova", backbone))
    session.read(BOOK[:300], "moby")
    with pytest.raises(
        LtmError, match=r"more has 400 tokens after 300 that were read, but tova on tiny-llama ends at 512"
    ):
        session.read(BOOK[:400], "more")


def test_without_shipped_weights_it_says_how_to_train():
    assert shipped_weights("tiny-llama", "longmem") is None
    assert shipped_weights("../weights/tiny-llama", "longmem") is None
    with pytest.raises(LtmError, match="ltm train --method longmem --backbone tiny-llama"):
        Session.open(None, "tiny-llama")


def test_a_backbone_without_a_tokenizer_is_refused(backbone):
    bare = load_backbone(backbone.model)
    with pytest.raises(LtmError, match="no tokenizer"):
        Session(create_method("window", bare))
    assert Session(create_method("window", bare), backbone.tokenizer).ask("Who?", max_new_tokens=2).token_ids


def test_every_token_tells_what_it_used(session):
    session.read(BOOK, "moby")
    session.read(OTHER, "idol")
    answer = session.ask("Who?", max_new_tokens=6, trace=True)
    traced, texts = answer.trace, {"moby": BOOK, "idol": OTHER}
    assert "".join(token.text for token in traced.tokens) == answer.text
    assert len(traced.tokens) == len(answer.token_ids) and all(token.uses for token in traced.tokens)
    for token in traced.tokens:
        assert 0 < token.weight <= 1 + 1e-5
        assert sum(use.weight for use in token.uses) <= token.weight + 1e-6
        for use in token.uses:
            passage = traced.passages[use.passage]
            assert texts[passage.document][passage.start : passage.end] == passage.text
            assert 0 <= use.start < use.end <= len(passage.text)
    most_used = answer.passages[0]
    own = [passage for passage in traced.passages if passage.document == most_used.document]
    assert any(one.start < most_used.end and most_used.start < one.end for one in own)
    assert session.ask("Who?", max_new_tokens=2).trace.tokens == []
    assert "trace" not in answer.to_dict()


def test_sessions_on_one_method_have_memories_of_their_own(backbone):
    """Quest lays a memory into a bank when a session first reads; the session's, and not the method's own."""
    method = create_method("quest", backbone)
    one, two = (Session(method, memory=method.new_memory()) for _ in range(2))
    one.read(BOOK[:200], "moby")
    two.read(OTHER[:200], "idol")
    assert [[info.name for info in session.documents] for session in (one, two)] == [["moby"], ["idol"]]
    assert method.bank is None and one.ask("Who?", max_new_tokens=3).token_ids
    unnoted = method.new_memory()
    method.read(torch.randint(5, 90, (1, 20)), memory=unnoted)
    with pytest.raises(LtmError, match="without noting documents"):
        Session(method, memory=unnoted).read(BOOK[:200], "moby")
