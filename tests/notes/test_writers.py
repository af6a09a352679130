"""Writers: messages as a prompt, answers as checked values, a backbone beside its own logits, a server on this host."""

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from scripted_writer import ScriptedWriter

from ltm.errors import ConfigError, LtmError
from ltm.methods import create_method
from ltm.notes.remote_writer import RemoteWriter
from ltm.notes.writer import WriterError, merged, schema_of, write_as
from ltm.text.backbone_writer import BackboneWriter
from ltm.text.generation import Sampling, generate
from ltm.text.means import Means

QUESTION = [{"role": "user", "content": "Where is the key?"}]


@dataclass(frozen=True)
class Described:
    keywords: list[str]
    weight: float
    context: str | None = None
    tags: list[str] = field(default_factory=list)


def test_neighbours_of_one_role_become_one_message():
    turns = [
        ("system", "Be brief."),
        ("user", "[1] Noon."),
        ("user", "When?"),
        ("assistant", "Noon."),
        ("user", "Why?"),
    ]
    messages = [{"role": role, "content": said} for role, said in turns]
    assert [(own["role"], own["content"]) for own in merged(messages)] == [
        ("system", "Be brief."),
        ("user", "[1] Noon.\n\nWhen?"),
        ("assistant", "Noon."),
        ("user", "Why?"),
    ]
    for wrong in ([], [{"role": "user"}], [{"role": 1, "content": "x"}]):
        with pytest.raises(LtmError, match="message"):
            merged(wrong)


@pytest.mark.parametrize("before", ["", "Sure! Here it is:\n```json\n", "{not json} "])
def test_an_answer_is_taken_out_of_what_stands_around_it(before):
    answer = before + '{"keywords": ["harpoon"], "weight": 1, "more": {}}\n```'
    assert write_as(ScriptedWriter(answer), Described, QUESTION) == Described(["harpoon"], 1.0)


@pytest.mark.parametrize("answer", ["", "no", "[1]", "{", '{"keywords": 3, "weight": 1}', '{"weight": 1}', "{}" * 3])
def test_nonsense_is_one_line(answer):
    with pytest.raises(WriterError, match="writer script answered .* not JSON with keywords, weight") as caught:
        write_as(ScriptedWriter(answer), Described, QUESTION)
    assert "\n" not in str(caught.value)


def test_the_schema_of_a_dataclass():
    assert schema_of(Described) == {
        "type": "object",
        "properties": {
            "keywords": {"type": "array", "items": {"type": "string"}},
            "weight": {"type": "number"},
            "context": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["keywords", "weight"],
        "additionalProperties": False,
    }


@pytest.fixture
def local(tiny_backbone):
    return BackboneWriter(create_method("full", tiny_backbone("tiny-llama")))


@torch.no_grad()
def test_a_backbone_scores_as_its_logits_say(local):
    choices = [" under the mat", " in Rome", " in Rom"]
    tokenizer, model = local.tokenizer, local.method.model
    prompt = tokenizer("The key is")["input_ids"]
    for found, choice in zip(local.score("The key is", choices), choices, strict=True):
        own = tokenizer(choice, add_special_tokens=False)["input_ids"]
        logits = model(torch.tensor([[*prompt, *own]])).logits[0].double().log_softmax(dim=-1)
        expected = sum(float(logits[len(prompt) - 1 + place, token]) for place, token in enumerate(own))
        assert found == pytest.approx(expected, abs=1e-3)
    assert local.usage.calls == 1 and local.usage.prompt_tokens == len(prompt)


@torch.no_grad()
def test_a_backbone_writes_what_it_would_generate(local):
    heard = []
    text = local.write(QUESTION, max_tokens=12, on_text=heard.append)
    assert text == "".join(heard)
    ids = local._ids(QUESTION)
    expected = local.method.model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert text == local.tokenizer.decode(expected, skip_special_tokens=True)
    assert local.usage.new_tokens == 12 and local.usage.prompt_tokens == ids.shape[1]
    assert local.write(QUESTION, max_tokens=12, temperature=5.0, seed=1) != text
    with pytest.raises(ConfigError, match="temperature=-1"):
        local.write(QUESTION, temperature=-1)
    assert local.method.memory.is_empty


def test_a_prompt_that_does_not_fit_is_told(local, monkeypatch):
    monkeypatch.setattr(type(local.method), "max_stream_tokens", 20)
    with pytest.raises(WriterError, match="has positions for 20; recall less"):
        local.write([{"role": "user", "content": "word " * 50}])
    with pytest.raises(LtmError, match="a choice is empty"):
        local.score("The key", ["", "x"])


class Server(ThreadingHTTPServer):
    """Answers as a test says; keeps requests."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []
        self.answer = (200, b"{}")

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers["Authorization"], body))
        answer = self.server.answer
        status, content = answer(body) if callable(answer) else answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def said(text):
    return 200, {
        "choices": [{"message": {"content": text}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2},
    }


def test_a_server_is_asked_as_openai_is(server, monkeypatch):
    monkeypatch.setenv("LTM_WRITER_KEY", "secret")
    server.answer = said('{"keywords": [], "weight": 0.5}')
    writer = RemoteWriter(server.url + "/", "qwen")
    assert write_as(writer, Described, [*QUESTION, {**QUESTION[0], "recalled": True}]) == Described([], 0.5)
    path, key, body = server.asked[0]
    assert path == "/v1/chat/completions" and key == "Bearer secret"
    assert body["model"] == "qwen" and body["max_tokens"] == 512 and body["temperature"] == 0.0
    assert body["messages"] == [{"role": "user", "content": "Where is the key?\n\nWhere is the key?"}]
    assert body["response_format"]["json_schema"]["schema"] == schema_of(Described)
    assert (writer.usage.calls, writer.usage.prompt_tokens, writer.usage.new_tokens) == (1, 7, 2)

    heard = []
    writer.write(QUESTION, max_tokens=3, temperature=0.7, seed=5, repetition_penalty=1.1, on_text=heard.append)
    body = server.asked[1][2]
    assert (body["temperature"], body["seed"]) == (0.7, 5) and "repetition_penalty" not in body
    assert "response_format" not in body and len(heard) == 1


def test_a_server_scores_with_echo(server):
    def answer(body):
        places = list(range(len(body["prompt"]))) + [len(body["prompt"])]  # a letter a token, and one that it made
        return 200, {"choices": [{"logprobs": {"text_offset": places, "token_logprobs": [None, *places[1:]]}}]}

    server.answer = answer
    assert RemoteWriter(server.url, "qwen").score("The ", ["ab", "c"]) == [4 + 5, 4]
    assert RemoteWriter(server.url, "qwen").score(QUESTION, ["!"]) == [len("Where is the key?\n")]
    assert server.asked[0][0] == "/v1/completions" and server.asked[0][2]["echo"] is True
    server.answer = said("x")
    with pytest.raises(WriterError, match="does not say how likely"):
        RemoteWriter(server.url, "qwen").score("The ", ["ab"])


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((401, {"error": {"message": "bad key"}}), r"refused \(status 401\): 'bad key'"),
        ((500, b"<html>oops"), r"refused \(status 500\): '<html>oops'"),
        ((200, b"<html>"), "did not answer in JSON"),
        ((200, {"choices": []}), "answered without text"),
        ((200, {"choices": [{"message": {"content": None}}]}), "answered without text"),
        ((200, [1]), "answered without text"),
    ],
)
def test_a_server_that_fails_is_one_line(server, answer, told):
    server.answer = answer
    with pytest.raises(WriterError, match=told) as caught:
        RemoteWriter(server.url, "qwen").write(QUESTION)
    assert "\n" not in str(caught.value)


def test_a_server_that_is_slow_or_gone_is_one_line(server):
    release = threading.Event()
    server.answer = lambda _: (release.wait(5), said("late"))[1]
    with pytest.raises(WriterError, match=r"did not answer at .* within 0.1 s"):
        RemoteWriter(server.url, "qwen", timeout=0.1).write(QUESTION)
    release.set()
    with pytest.raises(WriterError, match="is it running"):
        RemoteWriter("http://127.0.0.1:9/v1", "qwen").write(QUESTION)
    for wrong in ("localhost:8000", "file:///etc/passwd", "http://"):
        with pytest.raises(LtmError, match="is no address of a server"):
            RemoteWriter(wrong, "qwen")


def test_means_load_what_is_asked_for_and_nothing_else(tiny_backbone, server):
    means = Means(backbone="no-such/model", writer=f"{server.url}#qwen", encoder="hash")
    assert means.encoder.name == "hash" and means.writer.name == "qwen at 127.0.0.1"
    with pytest.raises(LtmError, match="names no model"):
        _ = Means(writer=server.url).writer
    shared = Means(backbone="tiny-llama")
    one, other = shared.of(None, "hash"), shared.of(f"{server.url}#qwen", None)
    assert one.backbone is other.backbone is shared.backbone
    assert one.encoder.name == "hash" and one.writer.name == "tiny-llama" and other.writer.name == "qwen at 127.0.0.1"
    given = ScriptedWriter()
    assert Means(tiny_backbone("tiny-llama"), given, "hash").of("http://h/v1#m", "minilm").writer is given


@torch.no_grad()
def test_a_repetition_penalty_leaves_what_was_recalled_alone(local):
    ids = local._ids(QUESTION)
    written = []
    for _ in range(10):  # naively: only tokens that the answer holds already lose
        logits = local.method.model(torch.cat((ids, torch.tensor([written], dtype=torch.long)), dim=1)).logits[0, -1]
        for token in set(written):
            logits[token] = logits[token] / 1.5 if logits[token] > 0 else logits[token] * 1.5
        written.append(int(logits.argmax()))
    text = local.write(QUESTION, max_tokens=10, repetition_penalty=1.5)
    assert text == local.tokenizer.decode(written, skip_special_tokens=True)
    sampling = Sampling(max_new_tokens=10, repetition_penalty=1.5)
    assert generate(local.method, local.tokenizer, ids, sampling).text != text
