"""RMT against a naive one, and the paper's defaults."""

from __future__ import annotations

import pytest
import torch
from reference.rmt import naive_loss, naive_rmt

from ltm.errors import ConfigError, LtmError
from ltm.methods import create_method, load_method
from ltm.methods.recurrent.rmt import RmtConfig

SEGMENTS = [9, 9, 5]


@pytest.fixture(params=["tiny-llama", "tiny-gpt-neox"])
def rmt(request, tiny_backbone):
    """In float64, so that what differs is not rounding."""
    backbone = tiny_backbone(request.param, "float64")
    return create_method("rmt", backbone, memory_tokens=3, local_window=9).double().eval()


def ids(rows=2):
    return torch.randint(5, 90, (rows, sum(SEGMENTS)), generator=torch.Generator().manual_seed(0))


def test_scoring_segments_equals_the_naive_one(rmt):
    with torch.no_grad():
        whole = rmt(ids()).logits
        rmt.read(ids())
        for row in range(2):
            logits, memory = naive_rmt(rmt.backbone, rmt.memory_tokens, ids()[row].split(SEGMENTS))
            torch.testing.assert_close(whole[row], torch.cat(logits), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(rmt.memory.rows[row]["memory"], memory, atol=1e-5, rtol=1e-5)


def test_the_loss_of_the_last_segment_teaches_the_first_as_the_naive_one_does(rmt):
    """With a longer graph the gradient is another one: it went through what the first segment wrote."""
    segments, memory = ids().split(SEGMENTS, dim=1), rmt.new_memory(2)
    losses = [rmt(piece, labels=piece, memory=memory, remember=True).loss for piece in segments]
    found = torch.autograd.grad(torch.stack(losses).mean(), rmt.memory_tokens)[0]
    rows = [naive_rmt(rmt.backbone, rmt.memory_tokens, row.split(SEGMENTS))[0] for row in ids()]
    naive = torch.stack([naive_loss(own, row.split(SEGMENTS)) for own, row in zip(rows, ids(), strict=True)]).mean()
    expected = torch.autograd.grad(naive, rmt.memory_tokens)[0]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert float((found - _detached(rmt, segments)).abs().max()) > 1e-3 * float(found.abs().max())


def _detached(rmt, segments):
    memory, losses = rmt.new_memory(2), []
    for piece in segments:
        losses.append(rmt(piece, labels=piece, memory=memory, remember=True).loss)
        memory.detach()
    return torch.autograd.grad(torch.stack(losses).mean(), rmt.memory_tokens)[0]


def test_the_paper_s_defaults():
    """The best run of RMT on WikiText-103 in booydar/LM-RMT's experiment_results: segments of 150, memory of 10."""
    config = RmtConfig()
    assert (config.memory_tokens, config.local_window, config.segment_size) == (10, 150, 150)
    assert config.memory_start == "random"


def test_memory_tokens_start_as_spread_out_as_embeddings(rmt):
    spread = float(rmt.backbone.view.embeddings(torch.arange(259)).std())
    assert 0.8 * spread < float(rmt.memory_tokens.detach().std()) < 1.2 * spread
    known = create_method("rmt", rmt.backbone, memory_tokens=3, memory_start="embeddings").memory_tokens
    table = rmt.backbone.view.embeddings(torch.arange(259)).float()
    assert all(bool((table == token).all(dim=1).any()) for token in known)


def test_problems_are_told_together():
    with pytest.raises(ConfigError, match=r"local_window=1.*memory_tokens=0.*memory_start='ones'"):
        RmtConfig(memory_tokens=0, memory_start="ones", local_window=1)  # type: ignore[arg-type]


def test_a_backbone_whose_states_are_no_embeddings_is_refused():
    from ltm.backbone import Backbone
    from ltm.backbone.tiny import build_tiny

    model, tokenizer = build_tiny("tiny-opt", word_embed_proj_dim=32)
    with pytest.raises(LtmError, match="32 channels and hidden states of 64"):
        create_method("rmt", Backbone("narrow", model, tokenizer))


def test_lora_is_trained_with_the_memory_and_saved_with_it(tiny_backbone, tmp_path):
    """Official script: memory tokens and LoRA on a frozen backbone. With it later segments learn by themselves, too."""
    pytest.importorskip("peft", reason="LoRA needs it")
    backbone = tiny_backbone("tiny-llama")
    method = create_method("rmt", backbone, memory_tokens=3, local_window=9, lora_rank=2)
    plain = create_method("rmt", backbone, memory_tokens=3, local_window=9)
    with torch.no_grad():
        assert torch.equal(method(ids()).logits, plain(ids()).logits)
    memory = method.new_memory(2)
    method(ids()[:, :9], memory=memory, remember=True)
    memory.detach()
    method(ids()[:, 9:18], labels=ids()[:, 9:18], memory=memory, remember=True).loss.backward()
    assert sum(float(p.grad.abs().sum()) for p in method.lora.parameters() if p.grad is not None) > 0
    with torch.no_grad():
        for parameter in method.lora.trainable_parameters():
            parameter.add_(0.05)
    method.save_pretrained(tmp_path)
    loaded = load_method(backbone, tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(ids()).logits, method(ids()).logits)
        assert not torch.equal(loaded(ids()).logits, plain(ids()).logits)
