"""Methods with a bank, their memory stored in codes."""

from __future__ import annotations

import pytest
import torch

from ltm.backbone import load_backbone
from ltm.bank import Bank
from ltm.errors import ConfigError
from ltm.methods import create_method
from ltm.methods.attention.longmem import LongMemConfig
from ltm.methods.attention.memorizing import MemorizingConfig

STORED = {"key_storage": "int4", "value_storage": "int4", "search_storage": "derived"}
CONFIGS = {"longmem": LongMemConfig, "memorizing": MemorizingConfig}


def tiny(name: str, **options):
    config = {**vars(CONFIGS[name].tiny()), "memory_size": 200, **options}
    return create_method(name, load_backbone("tiny-llama"), **config).eval()


def ids(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 250, (1, count), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", list(CONFIGS))
@torch.no_grad()
def test_a_memory_in_codes_is_read_saved_and_loaded(name, tmp_path):
    exact, small = tiny(name), tiny(name, **STORED)
    small.trained_module.load_state_dict(exact.trained_module.state_dict())
    text, past = ids(10, 1), ids(60)
    without = small(text).logits
    for method in (exact, small):
        method.read(past)
    logits, near = exact(text).logits, small(text).logits
    assert not torch.allclose(near, without) and not torch.equal(near, logits)
    assert (near - logits).abs().mean() < 0.3 * (logits - without).abs().mean()
    small.bank.save(tmp_path / "a.bank")
    again = tiny(name, **STORED)
    again.trained_module.load_state_dict(exact.trained_module.state_dict())
    again.use_bank(Bank.load(tmp_path / "a.bank"))
    assert torch.equal(again(text).logits, near)
    pieces = tiny(name, **STORED)
    pieces.trained_module.load_state_dict(exact.trained_module.state_dict())
    for piece in past.split(8 * 3, dim=1):  # whole segments
        pieces.read(piece)
    assert torch.allclose(pieces(text).logits, near, atol=1e-5)
    assert small.generate(text, max_new_tokens=20, do_sample=False).shape == (1, 30)  # what leaves the window is coded


@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_centre_is_the_backbones_and_tells_nothing_of_what_was_read(name):
    one, other = tiny(name, **STORED), tiny(name, **STORED)
    one.read(ids(60))
    center = one.bank.layout.key_center
    assert torch.equal(center, other.new_bank(3).layout.key_center) and center.abs().max() > 0
    assert center.shape == (1, one.backbone.view.num_kv_heads, one.backbone.view.head_dim)
    assert tiny(name, value_storage="int4").new_bank(1).layout.key_center is None


@pytest.mark.parametrize("name", list(CONFIGS))
def test_unknown_storages_are_refused_with_the_rest(name):
    with pytest.raises(ConfigError, match="local_window=0.*value_storage='int3'; use one of float32"):
        CONFIGS[name](local_window=0, value_storage="int3")
