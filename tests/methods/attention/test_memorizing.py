"""The Memorizing Transformer against its naive reference, its gate, its bank, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from reference.memorizing import NaiveMemorizing

from ltm.bank import Bank, BankConfig
from ltm.errors import BankMismatchError, ConfigError, LtmError
from ltm.methods import load_method
from ltm.methods.attention.memorizing import Memorizing, MemorizingConfig
from ltm.text.session import Session

SMALL = {"top_k": 4, "memory_size": 20, "segment_size": 8, "local_window": 8, "stride": 8, "gate_start": 0.5}


def build(tiny_backbone, name="tiny-llama", dtype="float64", **options):
    backbone = tiny_backbone(name, dtype)
    return Memorizing(backbone, MemorizingConfig(**{**SMALL, **options})).to(backbone.dtype).eval()


def tokens(rows, length, seed=0):
    return torch.randint(5, 90, (rows, length), generator=torch.Generator().manual_seed(seed))


def padded(rows, length):
    """True but for padding: at the first row's start, and over a whole segment and more at the last row's end."""
    mask = torch.ones(rows, length, dtype=torch.bool)
    if rows > 1:
        mask[0, :3] = False
        mask[-1, -11:] = False
    return mask


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 29), (3, 45)])
@pytest.mark.parametrize("memory_layer", [0, 3, 5])
def test_fast_path_equals_the_naive_reference(tiny_backbone, memory_layer, rows, length):
    """Outputs and the gate's gradient; grouped heads, fewer entries than asked, eviction, padding, separate rows."""
    method = build(tiny_backbone, memory_layer=memory_layer)
    method.gate.bias.data = torch.linspace(-2, 2, method.backbone.view.num_heads).double()
    ids, mask = tokens(rows, length), padded(rows, length)
    naive, outputs, gradients = NaiveMemorizing(method), [], []
    for path in ("fast", "naive"):
        method.zero_grad()
        logits = method(ids, mask, remember=True).logits if path == "fast" else naive.score_and_read(ids, mask)
        if logits.requires_grad:
            (logits[mask] ** 2).mean().backward()
        outputs.append(logits[mask].detach())
        gradients.append(torch.zeros(4) if method.gate.bias.grad is None else method.gate.bias.grad.float())
    # transformers computes norms and angles in float32
    torch.testing.assert_close(outputs[0], outputs[1], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-4)
    assert (float(gradients[0].abs().min()) > 0) == (length > SMALL["segment_size"])
    for row, memory in enumerate(naive.memories):
        assert method.bank.num_tokens(row) == memory[0].shape[1] <= SMALL["memory_size"]


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma2", "tiny-gpt2"])
def test_memory_off_or_nothing_read_or_a_shut_gate_is_the_backbone(tiny_backbone, name):
    method = build(tiny_backbone, name, dtype="float32")
    ids = tokens(2, 7)
    expected = method.model(ids).logits
    torch.testing.assert_close(method(ids).logits, expected)
    method.read(tokens(2, 30, seed=1))
    assert not torch.allclose(method(ids).logits, expected, atol=1e-3)
    with method.memory_off():
        torch.testing.assert_close(method(ids).logits, expected)
    method.gate.bias.data.fill_(-40.0)  # sigmoid(-40) = 0: all local
    torch.testing.assert_close(method(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_reading_equals_what_scoring_remembers_and_what_a_stream_spills(tiny_backbone):
    read, scored, ids, question = build(tiny_backbone), build(tiny_backbone), tokens(2, 21), tokens(2, 5, seed=3)
    read.read(ids)
    scored_logits = scored(ids, remember=True).logits
    torch.testing.assert_close(read(question).logits, scored(question).logits, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(build(tiny_backbone)(ids).logits, scored_logits, atol=1e-6, rtol=1e-5)


def test_training_the_gate_lowers_the_loss_on_text_that_repeats(tiny_backbone):
    """Only the gate learns; on a text that was read before, with a head's choice of more memory or less."""
    method = build(tiny_backbone, dtype="float32", memory_size=64, gate_start=0.05).train()
    phrase = tokens(2, 16)
    ids, losses = phrase.repeat(1, 4), []
    assert [name for name, p in method.named_parameters() if p.requires_grad] == ["gate.bias"]
    optimizer = torch.optim.Adam(method.trainable_parameters(), lr=0.3)
    for _ in range(12):
        method.reset()
        loss = method(ids, labels=ids, remember=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.02
    assert all(p.grad is None for p in method.model.parameters())
    summary = method.gate_summary()
    assert summary["gate_min"] < summary["gate_mean"] < summary["gate_max"] < 1


def test_a_first_segment_gives_the_gate_a_gradient_of_zero(tiny_backbone):
    method = build(tiny_backbone, dtype="float32").train()
    ids = tokens(2, 6)
    method(ids, labels=ids, remember=True).loss.backward()
    assert torch.equal(method.gate.bias.grad, torch.zeros(4))


def test_training_in_bf16_beside_a_float32_backbone(tiny_backbone):
    """Autocast must not reach the search: scores and bank stay in the bank's dtype."""
    method = build(tiny_backbone, dtype="float32").train()
    ids = tokens(2, 20)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(ids, labels=ids, remember=True).loss
    loss.backward()
    assert float(method.gate.bias.grad.abs().sum()) > 0
    assert method.bank.dtype == torch.float32


def test_no_layer_below_the_memory_layer_runs_with_gradients(tiny_backbone):
    method, tracked = build(tiny_backbone, memory_layer=3).train(), []
    hooks = [
        layer.register_forward_pre_hook(lambda _, args: tracked.append(args[0].requires_grad))
        for layer in method.backbone.view.layers
    ]
    method.read(tokens(2, 20))  # with the hooks: they are part of the backbone's identity
    tracked.clear()
    method(tokens(2, 6))
    for hook in hooks:
        hook.remove()
    assert tracked == [False] * 4 + [True] * 2


def test_the_trace_names_the_tokens_that_were_used(tiny_backbone):
    method, past = build(tiny_backbone, gate_start=0.25), tokens(1, 20)
    method.read(past)
    with method.trace() as trace, torch.no_grad():
        method(tokens(1, 5, seed=2))
    used = trace.tokens(0)
    assert len(used) == 5
    for entries in used:
        assert sum(entry.weight for entry in entries) == pytest.approx(0.25, abs=1e-5)
        assert [e.weight for e in entries] == sorted((e.weight for e in entries), reverse=True)
    best = used[0][0]
    assert method.bank.sources([best.slot])[0].token_ids == [int(past[0, best.slot])]


def test_generating_reads_memory_and_what_the_prompt_spilled(tiny_backbone):
    method, prompt = build(tiny_backbone), tokens(2, 19)
    options = {"do_sample": False, "max_new_tokens": 12, "min_new_tokens": 12, "pad_token_id": 0}
    fresh = method.generate(prompt, **options)
    method.read(tokens(2, 20, seed=1))
    remembering = method.generate(prompt, **options)
    assert fresh.shape == remembering.shape == (2, 31) and not torch.equal(fresh, remembering)
    with method.memory_off():
        assert not torch.equal(method.generate(prompt, **options), fresh)  # the prompt is longer than the window


def test_the_budget_holds_and_the_oldest_tokens_leave(tiny_backbone):
    method = build(tiny_backbone)
    method.read(tokens(2, 30))
    assert [method.bank.num_tokens(row) for row in range(2)] == [20, 20]
    gone, *kept = (method.bank.sources([slot])[0].token_ids for slot in range(9, 30))
    assert gone == [] and kept == [[int(token)] for token in tokens(2, 30)[0, 10:]]


def test_a_saved_gate_comes_back_and_another_backbone_is_refused(tiny_backbone, tmp_path):
    method, ids = build(tiny_backbone, dtype="float32"), tokens(1, 7)
    method.gate.bias.data = torch.linspace(-2, 2, 4)
    method.save_pretrained(tmp_path)
    loaded = load_method(method.backbone, tmp_path, top_k=2)
    assert torch.equal(loaded.gate.bias, method.gate.bias)
    assert loaded.num_trainable == 0 and loaded.method_config.top_k == 2
    assert torch.equal(loaded(ids).logits, method(ids).logits)
    with pytest.raises(LtmError, match=r"trained for tiny-llama: .*architecture"):
        load_method(tiny_backbone("tiny-qwen3"), tmp_path)
    with pytest.raises(LtmError, match=r"does not fit its own config: bias; train again"):
        method.load_trained_state({"bias": torch.zeros(3)}, "weights")


def test_a_saved_bank_is_used_again_and_that_of_another_model_refused(tiny_backbone, tmp_path):
    method, question = build(tiny_backbone), tokens(1, 5, seed=3)
    method.read(tokens(1, 20))
    method.bank.save(tmp_path / "a.bank")
    other = build(tiny_backbone)
    other.use_bank(Bank.load(tmp_path / "a.bank", fingerprint=other.backbone.fingerprint))
    assert torch.equal(other(question).logits, method(question).logits)
    foreign = Bank(BankConfig(chunk_size=4), num_rows=1, num_kv_heads=2, head_dim=16, layers=(1,))
    with pytest.raises(BankMismatchError, match="chunk_size: bank 4, model 1; layers: bank 1, model 3"):
        method.use_bank(foreign)


def test_a_session_reads_asks_and_names_passages(tiny_backbone, tmp_path):
    text = "".join(f"The lamp of room {number} is blue. " for number in range(12))
    method = build(tiny_backbone, dtype="float32", memory_size=1024, segment_size=32, local_window=64)
    method.save_pretrained(tmp_path / "gate")
    session = Session(method, path=tmp_path / "rooms.bank")
    session.read(text, "rooms")
    answer = session.ask("Which lamp?", trace=True, max_new_tokens=4)
    assert answer.passages and all(passage.text in text for passage in answer.passages)
    again = Session.open(tmp_path / "rooms.bank", method="memorizing", sidenet=tmp_path / "gate", device="cpu")
    assert [info.name for info in again.documents] == ["rooms"]
    assert again.ask("Which lamp?", max_new_tokens=4).token_ids == answer.token_ids


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory_layer": 6}, "memory_layer=6; the backbone has layers 0 to 5"),
        ({"top_k": 0, "segment_size": 1}, "segment_size=1; use 2 or more; top_k=0; use 1 or more"),
        ({"gate_start": 1.0}, "gate_start=1.0; use a share between 0 and 1, such as 0.05"),
        (
            {"stride": 9, "index": "hnsw"},
            "index='hnsw'; use one of auto, exact, approximate, faiss, qdrant; stride=9; use 1 to 8",
        ),
    ],
)
def test_configs_that_cannot_be_are_refused(tiny_backbone, options, words):
    with pytest.raises(ConfigError) as caught:
        build(tiny_backbone, dtype="float32", **options)
    assert words in str(caught.value)


def test_the_memory_layer_lies_where_the_paper_has_it():
    """The 9th of 12, and the released LongMem's 18th of 24."""
    assert [MemorizingConfig().resolved_memory_layer(layers) for layers in (1, 6, 12, 24, 30)] == [0, 3, 8, 17, 21]
