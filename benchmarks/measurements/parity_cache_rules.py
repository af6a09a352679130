"""TOVA and H2O beside the released code: the same weights, the same tokens kept, block after block in every layer.

    git clone https://github.com/schwartz-lab-NLP/TOVA && git clone https://github.com/FMInference/H2O
    git clone https://github.com/NVIDIA/kvpress
    python benchmarks/measurements/parity_cache_rules.py TOVA H2O kvpress

What decides in the three checkouts runs without the models they were written for, and is taken from them as it stands:
TOVA's cache (src/tova_cache.py), H2O's cache with real eviction (h2o_hf/utils_real_drop/modify_llama.py), kvpress's
score of TOVA. Each is handed the keys and attention weights of a text as our rules see them and has to keep the same
keys, bit for bit. H2O's needs as many key heads as query heads; kvpress cuts a prompt once, and keeps its last token
whatever that got, which ours is made to do as well. Prints a line a case, exits with 1 where one differs.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from common import notice, print_table
from torch import Tensor
from torch.nn import functional

from ltm.backbone import load_backbone
from ltm.methods.cache.h2o import H2o, H2oConfig
from ltm.methods.cache.tova import Tova, TovaConfig
from ltm.streams.kept import KeptLayer

LENGTH = 240
CASES = [
    *(("TOVA", name, budget, block) for name in ("tiny-llama", "tiny-opt") for budget, block in ((16, 1), (40, 8))),
    *(("H2O", name, budget, block) for name in ("tiny-gpt-neox", "tiny-opt") for budget, block in ((16, 1), (40, 8))),
    *(("kvpress", name, budget, LENGTH) for name in ("tiny-llama", "tiny-qwen3") for budget in (60, 180)),
]


class Beside:
    """A rule that asks another code at every decision, and counts where it keeps others."""

    def watch(self, decide: Any) -> None:
        self.decide, self.seen, self.decisions, self.others = decide, {}, 0, 0

    def asks(self, layer: int, places: Tensor) -> Tensor:
        return places >= 0

    def note(self, layer: int, held: KeptLayer, weights: Tensor, places: Tensor) -> None:
        self.seen[layer] = weights.flatten(1, 2)  # [1, heads, queries, slots]
        super().note(layer, held, self.own_queries(weights), places)  # type: ignore[misc]

    def own_queries(self, weights: Tensor) -> Tensor:
        return weights

    def keep(self, layer: int, held: KeptLayer) -> Tensor:
        kept = super().keep(layer, held)  # type: ignore[misc]
        keys, values = held.keys_values()
        theirs = self.decide(layer, keys, values, self.seen[layer])
        mine = torch.stack([head[own] for head, own in zip(keys[0], kept[0], strict=True)])
        self.decisions += 1
        self.others += not torch.equal(mine, theirs[0])
        return kept


class TovaBeside(Beside, Tova):
    def own_queries(self, weights: Tensor) -> Tensor:
        return weights[:, :, :, -1:]


class KvpressBeside(TovaBeside):
    def own_queries(self, weights: Tensor) -> Tensor:
        """The last token's weight is the largest, so that it stays as it does there."""
        weights = super().own_queries(weights).clone()
        weights[..., -1] = 1.0
        return weights


class H2oBeside(Beside, H2o):
    pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("TOVA", "H2O", "kvpress"):
        parser.add_argument(name, type=Path, help=f"a checkout of {name}")
    arguments = vars(parser.parse_args())
    rows, wrong = [], 0
    for code, name, budget, block in CASES:
        method = compared(code, arguments[code], name, budget, block)
        rows.append([code, name, str(budget), str(block), str(method.decisions), str(method.others)])
        wrong += bool(method.others) or not method.decisions
    print_table(["code", "model", "budget", "block", "decisions", "others kept"], rows)
    notice(f"{len(CASES) - wrong} of {len(CASES)} cases agree")
    sys.exit(1 if wrong else 0)


def compared(code: str, checkout: Path, name: str, budget: int, block: int) -> Any:
    """A rule that has read a text beside the released code."""
    backbone = load_backbone(name, dtype=torch.float32)
    if code == "H2O":
        method: Any = H2oBeside(backbone, H2oConfig(budget=budget, block=block))
        method.watch(h2o(checkout, budget))
    else:
        kind, released = (TovaBeside, tova) if code == "TOVA" else (KvpressBeside, kvpress)
        method = kind(backbone, TovaConfig(budget=budget, block=block))
        method.watch(released(checkout, budget))
    method.name = code.lower()
    generator = torch.Generator().manual_seed(budget)
    method.read(torch.randint(5, 250, (1, LENGTH), generator=generator))
    return method


# the released code


def tova(checkout: Path, budget: int) -> Any:
    spec = importlib.util.spec_from_file_location("tova_cache", existing(checkout / "src/tova_cache.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def decide(layer: int, keys: Tensor, values: Tensor, weights: Tensor) -> Tensor:
        cache = SimpleNamespace(key_cache=[keys], value_cache=[values], cache_size=budget)
        module.TOVACache.reduce(cache, 0, weights)
        return cache.key_cache[0]

    return decide


def h2o(checkout: Path, budget: int) -> Any:
    kind = one_class(checkout / "h2o_hf/utils_real_drop/modify_llama.py", "H2OKVCache_LayerWise", {"torch": torch})
    layers: dict[int, Any] = {}

    def decide(layer: int, keys: Tensor, values: Tensor, weights: Tensor) -> Tensor:
        if layer not in layers:
            with redirect_stdout(None):
                layers[layer] = kind(hh_size=budget - budget // 2, recent_size=budget // 2)
        return layers[layer]((keys, values), weights)[0]

    return decide


def kvpress(checkout: Path, budget: int) -> Any:
    names = {"torch": torch, "F": functional, "nn": torch.nn, "ScorerPress": object, "dataclass": lambda kind: kind}
    press = one_class(checkout / "kvpress/presses/tova_press.py", "TOVAPress", names)()

    def decide(layer: int, keys: Tensor, values: Tensor, weights: Tensor) -> Tensor:
        scores = press.score(None, None, keys, values, weights, {})
        kept = scores.topk(budget, dim=-1).indices.sort(dim=-1).values
        return keys.gather(2, kept[..., None].expand(-1, -1, -1, keys.shape[-1]))

    return decide


def one_class(file: Path, name: str, names: dict[str, Any]) -> Any:
    """A class of a file whose other parts need what is not here."""
    tree = ast.parse(existing(file).read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    exec(compile(tree, str(file), "exec"), names)
    return names[name]


def existing(file: Path) -> Path:
    if not file.exists():
        sys.exit(f"{file} is not there; give checkouts of TOVA, H2O and kvpress, in this order")
    return file


if __name__ == "__main__":
    main()
