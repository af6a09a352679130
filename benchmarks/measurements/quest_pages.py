"""How much of full attention the pages that Quest chooses hold, by layer and budget, beside the best that pages can.

    python benchmarks/measurements/quest_pages.py --data DATA  # two minutes on one core; real weights, a book

Reads the first tokens of a book, and asks at the next few: the share of the softmax over all tokens that falls on the
chosen pages, and on as many pages chosen by that share itself, means over heads and tokens. All layers choose here.
Writes benchmarks/results/quest_pages.json.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from common import machine, print_table, write_result
from quest_speed import first_tokens
from torch import Tensor
from torch.nn.functional import pad

from ltm.attention import LocalView, Plugin, attach
from ltm.attention.views import attend
from ltm.backbone import load_backbone
from ltm.compat import cache_argument
from ltm.methods.attention.quest import Quest, QuestConfig
from ltm.methods.attention.quest.pages import choose_pages, score_pages
from ltm.streams.pages import Columns, PagedCache

BUDGETS = (256, 512, 1024)


class Shares(Plugin):
    """Notes for each layer and budget the share of attention on Quest's pages and on the best ones."""

    def __init__(self, cache: PagedCache, columns: Columns, num_new: int, num_layers: int):
        self.local_layers = range(num_layers)
        self.cache, self.columns, self.places = cache, columns, columns.places[:, -num_new:]
        self.found: dict[int, dict[int, tuple[float, float]]] = {}

    def attend_local(self, layer: int, local: LocalView) -> None:
        held = self.cache.layer(layer)
        held.pages.extend(local.key, self.columns)
        size, bounds = held.page_size, held.pages.bounds
        assert bounds is not None
        number = -(-self.columns.num_tokens // size)
        weights = attend(local.query, local.key, local.value, local.explicit_mask(), local.scaling).weights
        by_page = pad(weights, (0, number * size - weights.shape[-1])).unflatten(-1, (number, size)).sum(dim=-1)
        scores = score_pages(local.query, bounds[:, :, :number])
        self.found[layer] = {budget: self._shares(by_page, scores, budget // size) for budget in BUDGETS}

    def _shares(self, by_page: Tensor, scores: Tensor, num_pages: int) -> tuple[float, float]:
        pages, _ = choose_pages(scores, self.places // self.cache.page_size, num_pages, True)
        best = by_page.topk(pages.shape[-1], dim=-1).values
        return float(by_page.gather(-1, pages).sum(dim=-1).mean()), float(best.sum(dim=-1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--read", type=int, default=3072)
    parser.add_argument("--tokens", type=int, default=16, help="tokens after those, whose queries are looked at")
    parser.add_argument("--data", default=None, help="the folder of local data; random tokens without it")
    arguments = parser.parse_args()
    backbone = load_backbone(arguments.backbone)
    ids = first_tokens(backbone, arguments.data, arguments.read + arguments.tokens)
    found = shares(Quest(backbone, QuestConfig()), ids, arguments.tokens)
    config = {"read": arguments.read, "tokens": arguments.tokens, "backbone": arguments.backbone}
    results = {
        layer: {str(budget): {"quest": own, "best": best} for budget, (own, best) in by_budget.items()}
        for layer, by_budget in found.items()
    }
    write_result("quest_pages", {"config": config, "machine": machine(), "results": results})
    rows = [[str(layer), *(f"{own:.3f} of {best:.3f}" for own, best in by.values())] for layer, by in found.items()]
    print_table(["layer", *(f"budget {budget}" for budget in BUDGETS)], rows)


@torch.no_grad()
def shares(method: Quest, ids: Tensor, num_new: int) -> dict[int, dict[int, tuple[float, float]]]:
    """Of the last `num_new` tokens of ids [1, tokens], after the others were read."""
    method.read(ids[:, :-num_new])
    cache: Any = method._past
    columns, view = Columns(torch.ones(1, ids.shape[1], dtype=torch.bool)), method.backbone.view
    plugin, positions = Shares(cache, columns, num_new, view.num_layers), columns.places[:, -num_new:]
    with attach(view, plugin):
        view.model(ids[:, -num_new:], position_ids=positions, **cache_argument(cache.caches[0]), logits_to_keep=1)
    return plugin.found


if __name__ == "__main__":
    main()
