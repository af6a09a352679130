"""Quest against numbers of the released code, kept by benchmarks/measurements/parity_quest.py.

How is in the file's metadata.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from ltm.attention import LocalView
from ltm.methods.attention.quest import QuestConfig
from ltm.methods.attention.quest.reader import PageReader
from ltm.streams.pages import Columns, PagedCache, PagedLayer

FILE = Path(__file__).parent / "quest_official.safetensors"


def cases():
    with safe_open(FILE, framework="pt") as file:
        return sorted({name.partition("/")[0] for name in file.keys()})  # noqa: SIM118


def test_the_file_says_how_it_was_made():
    with safe_open(FILE, framework="pt") as file:
        assert "parity_quest.py" in file.metadata()["made_by"] and "mit-han-lab/Quest at " in file.metadata()["made_by"]
    assert len(cases()) == 4


@pytest.mark.parametrize("name", cases())
def test_pages_and_outputs_are_those_of_the_released_code(name):
    rule, length, heads, kv_heads, page_size, budget, _ = name.split("-")
    with safe_open(FILE, framework="pt") as file:
        query, keys, values, read, expected = (
            file.get_tensor(f"{name}/{part}") for part in ("query", "keys", "values", "read", "output")
        )
    assert 0 < int(read.sum(dim=1).max()) < int(length)  # something is left out
    config = QuestConfig(int(page_size), int(budget), dense_layers=0, current_page=rule)
    cache, layer = PagedCache(config.page_size), PagedLayer(config.page_size)
    layer.update(keys[None], values[None])
    cache.caches[0].layers = [layer]
    module = SimpleNamespace(is_causal=True, num_key_value_groups=int(heads) // int(kv_heads))
    local = LocalView(module, query[None, :, None], layer.keys, layer.values, None, 8**-0.5, 0.0, None, {})
    reader = PageReader(config, [0], cache, Columns(torch.ones(1, int(length), dtype=torch.bool)), 1)
    fetched = reader.attend_local(0, local)
    assert torch.equal(reader.mask(local, layer, local.explicit_mask(), slice(None))[0, :, 0], read)
    torch.testing.assert_close(fetched[0, :, 0], expected, atol=1e-5, rtol=1e-5)
