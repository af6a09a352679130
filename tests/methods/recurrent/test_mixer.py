"""The hook for mixers, proved by a small one: linear attention with a decay, in attention's place and beside it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from ltm.backbone import TINY_ARCHITECTURES
from ltm.methods.recurrent.base import Recurrent, SegmentFields
from ltm.methods.recurrent.mixer import Mixer

FAST = ("tiny-llama", "tiny-gpt2")
ARCHITECTURES = [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in TINY_ARCHITECTURES]


class Decayed(Mixer):
    """S_t = a S_{t-1} + k_t v_t^T;  o_t = S_t^T q_t."""

    def __init__(self, hidden_size: int, width: int = 8, decay: float = 0.9):
        super().__init__()
        self.inner = nn.Linear(hidden_size, 3 * width, bias=False)
        self.outer = nn.Linear(width, hidden_size, bias=False)
        self.width, self.decay = width, decay

    def initial(self) -> dict[str, Tensor]:
        return {"sums": self.inner.weight.new_zeros(self.width, self.width)}

    def forward(self, hidden: Tensor, state, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        sums, outputs = state["sums"], []
        queries, keys, values = self.inner(hidden).chunk(3, dim=-1)
        for token in range(hidden.shape[1]):
            new = self.decay * sums + keys[:, token, :, None] * values[:, token, None]
            sums = torch.where(mask[:, token, None, None], new, sums)
            outputs.append((queries[:, token, None] @ sums)[:, 0])
        return self.outer(torch.stack(outputs, dim=1)), {"sums": sums}


class Beside(Decayed):
    keeps_attention = True

    def join(self, attended: Tensor, mixed: Tensor) -> Tensor:
        return attended + mixed


@dataclass(frozen=True)
class MixedConfig(SegmentFields):
    local_window: int = 9


class Mixed(Recurrent):
    """Layers 1 and 4 mix, by one kind or the other. Not registered: it is a test's."""

    name = "mixed"
    config_class = MixedConfig

    def __init__(self, backbone, config, kind: type[Decayed]):
        super().__init__(backbone, config)
        torch.manual_seed(0)
        self.added = nn.ModuleList(kind(backbone.view.hidden_size) for _ in range(2))

    def mixers(self):
        return {1: self.added[0], 4: self.added[1]}


@pytest.fixture(params=ARCHITECTURES)
def mixed(request, tiny_backbone):
    dtype = "float32" if request.param == "tiny-gemma2" else "float64"
    backbone = tiny_backbone(request.param, dtype)
    return lambda kind=Decayed: Mixed(backbone, MixedConfig(), kind).to(backbone.dtype).eval()


CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def ids(rows=2, length=23, seed=0):
    return torch.randint(5, 90, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_a_mixer_stands_where_its_layer_s_attention_stood(mixed):
    """Nothing of the layer's attention goes on: other values in it change nothing."""
    method, text = mixed(), ids(length=7)
    with torch.no_grad():
        found, plain = method(text).logits, method.model(text).logits
        assert float((found - plain).abs().max()) > 0.1
        projection = method.backbone.view.output_projections(method.backbone.view.layers[1])[0]
        kept = projection.weight.clone()
        projection.weight.mul_(3.0)
        changed, changed_plain = method(text, memory=method.new_memory(2)).logits, method.model(text).logits
        projection.weight.copy_(kept)
        assert torch.equal(changed, found) and not torch.equal(changed_plain, plain)
        assert torch.equal(method.model(text).logits, plain)


def test_beside_attention_a_mixer_that_says_nothing_changes_nothing(mixed):
    method, text = mixed(Beside), ids(length=7)
    with torch.no_grad():
        plain = method.model(text).logits
        assert float((method(text).logits - plain).abs().max()) > 0.1
        for mixer in method.added:
            mixer.outer.weight.zero_()
        torch.testing.assert_close(method(text).logits, plain, **CLOSE)


@pytest.mark.parametrize("kind", [Decayed, Beside])
@torch.no_grad()
def test_states_go_from_piece_to_piece_over_windows_with_padding_and_beams(mixed, kind):
    method, text = mixed(kind), ids()
    method.read(ids(seed=3))
    whole = method(text).logits
    for cuts in ([0, 1, 8, 20, 23], list(range(24))):
        stream = method.new_cache()
        parts = [method(text[:, a:b], cache=stream, use_cache=True).logits for a, b in pairwise(cuts)]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, **CLOSE)
    mask = torch.ones_like(text)
    mask[1, :6] = 0
    alone = method(text[1:, 6:], memory_rows=[1]).logits
    torch.testing.assert_close(method(text, attention_mask=mask).logits[1:, 6:], alone, **CLOSE)
    options = {"do_sample": False, "num_beams": 2, "max_new_tokens": 6, "min_new_tokens": 6, "pad_token_id": 0}
    beams = method.generate(text[:, :7], **options)
    assert torch.equal(beams[1:], method.generate(text[1:, :7], memory_rows=[1], **options))


def test_the_loss_of_a_later_segment_teaches_what_an_earlier_one_wrote(mixed):
    """The first layer's key weights matter to the second segment by the state alone."""
    method, memory = mixed(), None
    grads = []
    for detach in (False, True):
        memory = method.new_memory(2)
        method(ids(length=9), memory=memory, remember=True)
        if detach:
            memory.detach()
        loss = method(ids(length=9, seed=4), labels=ids(length=9, seed=4), memory=memory, remember=True).loss
        grads.append(torch.autograd.grad(loss, method.added[0].inner.weight)[0])
    assert float((grads[0] - grads[1]).abs().max()) > 1e-4 * float(grads[0].abs().max())
