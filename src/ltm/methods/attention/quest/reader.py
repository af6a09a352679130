"""The plugin that attends to pages in the place of local attention, and notes which remembered tokens were used."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ltm.attention import LocalView, Plugin
from ltm.attention.views import attend
from ltm.methods.attention.quest.config import QuestConfig
from ltm.methods.attention.quest.pages import attend_pages, bounds_of_own_page, choose_pages, page_mask, score_pages
from ltm.streams.pages import Columns, PagedCache, PagedLayer

MASKED_TOKENS = 256
"""Queries whose masks over the whole cache are made at once."""


class PageReader(Plugin):
    """Quest's attention for one pass over new tokens.

    layers: those that choose pages; columns: of the cache with the new tokens; num_new: how many came. Tokens that
    were read attend to everything, and so does all that slides over a window of its own. A single token copies its
    pages out of the cache; several (scoring) mask what they did not choose, which gives the same.
    """

    def __init__(
        self,
        config: QuestConfig,
        layers: Sequence[int],
        cache: PagedCache,
        columns: Columns,
        num_new: int,
        traced: bool = False,
    ):
        self.config, self.local_layers, self.cache, self.columns = config, layers, cache, columns
        self.places = columns.places[:, -num_new:]
        self.dense = cache.was_read(columns, num_new)
        fits = columns.num_tokens <= config.num_pages * config.page_size
        self.bypass = fits or bool(self.dense.all())
        """Nothing has to be chosen: the usual attention is the same."""
        self.is_step = num_new == 1 and not bool(self.dense.any())
        """One token a row, which chooses."""
        self.traced = traced
        self.weights: list[Tensor] = []
        """Of each layer, where traced: the softmax weights averaged over heads, [batch, tokens, columns]."""

    def attend_local(self, layer: int, local: LocalView) -> Tensor | None:
        if (self.bypass and not self.traced) or local.options.get("sliding_window") is not None:
            return None
        held = self.cache.layer(layer)
        held.pages.extend(local.key, self.columns)
        if self.traced:
            return self._traced(local, held)
        if self.is_step:
            pages, there = self._choose(local, held, self.places)
            return attend_pages(local, held, pages, there, self.columns, self.places)
        pieces = [self._masked(local, held, start) for start in range(0, local.query.shape[2], MASKED_TOKENS)]
        return torch.cat(pieces, dim=2)

    def _masked(self, local: LocalView, held: PagedLayer, start: int) -> Tensor:
        """Full attention of some queries under a mask of what they chose."""
        piece = slice(start, start + MASKED_TOKENS)
        usual = local.explicit_mask()[:, :, piece]
        part = local._replace(query=local.query[:, :, piece])
        return part._replace(mask=self.mask(part, held, usual, piece)).output()

    def _traced(self, local: LocalView, held: PagedLayer) -> Tensor:
        """The same, with the weights that every column got."""
        mask = self.mask(local, held, local.explicit_mask(), slice(None))
        partial = attend(local.query, local.key, local.value, mask, local.scaling, local.softcap)
        assert partial.weights is not None
        self.weights.append(partial.weights.mean(dim=1))
        return partial.output

    def mask(self, local: LocalView, held: PagedLayer, usual: Tensor, piece: slice) -> Tensor:
        """bool [batch, heads, tokens, columns]: of what attention usually sees, what these queries chose to see."""
        pages, there = self._choose(local, held, self.places[:, piece])
        chosen = page_mask(pages, there, self.columns, self.config.page_size) | self.dense[:, None, piece, None]
        if chosen.shape[1] < local.query.shape[1]:
            chosen = chosen.repeat_interleave(local.query.shape[1] // chosen.shape[1], dim=1)
        return usual & chosen

    def _choose(self, local: LocalView, held: PagedLayer, places: Tensor) -> tuple[Tensor, Tensor]:
        """Pages of each query and whether they are there, [batch, heads or kv_heads, tokens, pages]."""
        config, kept = self.config, self.config.current_page == "kept"
        own, number = places // config.page_size, -(-self.columns.num_tokens // config.page_size)
        assert held.pages.bounds is not None
        scores = score_pages(local.query, held.pages.bounds[:, :, :number])
        if not kept and places.shape[1] > 1:  # the bounds of a page that goes on count later tokens too
            bounds = bounds_of_own_page(local.key, self.columns, places, config.page_size)
            where = own[:, None, :, None].expand(-1, scores.shape[1], -1, -1)
            scores = scores.scatter(-1, where, score_pages(local.query, bounds))
        if config.share_pages:
            scores = scores.unflatten(1, (local.key.shape[1], -1)).amax(dim=2)
        return choose_pages(scores, own, config.num_pages, kept)
