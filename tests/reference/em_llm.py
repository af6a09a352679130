"""EM-LLM written out naively: float64, one row, one segment, one query, one head, one candidate cut at a time.

For backbones built like Llama. The fast path must give the same events and the same logits
(tests/methods/test_em_llm.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from reference.naive_llama import NaiveLlama
from torch import Tensor

from ltm.methods.attention.em_llm.reader import SCORE_EVERY


@dataclass
class NaiveEvent:
    """first: place of its first token; keys: of each layer, the representative key of each head [heads, head_dim]."""

    first: int
    size: int
    keys: list[Tensor]


@dataclass
class NaiveMemory:
    """A row's past: of each layer position-free keys and values [kv_heads, tokens, head_dim], and the events."""

    keys: list[Tensor]
    values: list[Tensor]
    events: list[NaiveEvent] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return self.keys[0].shape[1]


class NaiveEmLlm:
    """Reading and scoring of one row of an `EmLlm` in float64, sharing its backbone."""

    def __init__(self, method: Any):
        self.config, self.view = method.method_config, method.backbone.view
        self.refine_from_layer = method.refine_from_layer
        self.recall_from_layer = self.config.first_layer("recall_from_layer", self.view.num_layers)
        self.llama = NaiveLlama(self.view)
        empty = torch.zeros(self.view.num_kv_heads, 0, self.view.head_dim, dtype=torch.float64)
        layers = range(self.view.num_layers)
        self.memory = NaiveMemory([empty for _ in layers], [empty for _ in layers])

    def read(self, ids: Tensor) -> None:
        """Take tokens [tokens] in."""
        self._run(ids, per_token=False)

    def score(self, ids: Tensor) -> Tensor:
        """Logits [tokens, vocab] of tokens that come after what was read; what leaves the window is remembered."""
        return self._run(ids, per_token=True)

    def _run(self, ids: Tensor, per_token: bool) -> Tensor:
        pieces = [self._segment(segment, per_token) for segment in ids.split(self.config.segment_size)]
        return torch.cat(pieces)

    def _segment(self, ids: Tensor, per_token: bool) -> Tensor:
        """Encode a segment with its past, then remember it; logits [tokens, vocab]."""
        hidden = self.view.embeddings(ids)  # [tokens, hidden_size]
        keys, values, attended = [], [], []
        for index, layer in enumerate(self.view.layers):
            own_keys, own_values = self.llama.keys_values(layer, hidden)
            received = torch.zeros(self.view.num_heads, len(ids), dtype=torch.float64)
            look = partial(self._look, index, own_keys, own_values, received, per_token)
            hidden = self.llama.layer(layer, hidden, look)
            keys.append(own_keys)
            values.append(own_values)
            attended.append(received)
        logits = self.view.logits(self.view.final_norm(hidden))
        self._remember(keys, values, attended, self._event_sizes(ids, logits, keys))
        return logits

    # attention

    def _look(
        self,
        layer: int,
        keys: Tensor,
        values: Tensor,
        received: Tensor,
        per_token: bool,
        local: Tensor,
        lse: Tensor,
        query: Tensor,
    ) -> Tensor:
        """One softmax over window, recent tokens, sinks and recalled events, [1, heads, tokens, head_dim]; adds to
        `received` [heads, tokens]. query: [heads, tokens, head_dim], without positions; local and lse are not used."""
        memory, tokens = self.memory, query.shape[1]
        recent = range(max(memory.tokens - self.config.recent_size, 0), memory.tokens)
        turned = self._turn(torch.cat((memory.keys[layer][:, recent.start :], keys), dim=1))
        turned_query = self._turn(query, start=len(recent))
        edge_query = self._turn(query, start=self.config.edge, step=0)
        output = torch.zeros_like(local)
        for token in range(tokens):
            asking = edge_query[:, token] if per_token else edge_query.mean(dim=1)
            recalled = self._recalled(layer, asking, recent.start)
            for head in range(len(query)):
                kv = head // self.llama.group
                far = self._far_keys(memory.keys[layer][kv], recalled)
                logits = [edge_query[head, token] @ key for key in far]
                logits += [turned_query[head, token] @ key for key in turned[kv, : len(recent) + token + 1]]
                seen = [memory.values[layer][kv, place] for place, _ in recalled]
                seen += list(memory.values[layer][kv, recent.start :]) + list(values[kv, : token + 1])
                weights = torch.softmax(torch.stack(logits) * self.llama.scaling, dim=0)
                output[0, head, token] = sum(w * v for w, v in zip(weights, seen, strict=True))
                if token % SCORE_EVERY == SCORE_EVERY - 1:
                    received[head, : token + 1] += weights[len(recalled) + len(recent) :]
        return output

    def _far_keys(self, keys: Tensor, recalled: list[tuple[int, int]]) -> list[Tensor]:
        """Remembered keys [tokens, head_dim] where they are placed: at position 0, or in order before it."""
        if self.config.placement == "edge":
            return [keys[place] for place, _ in recalled]
        return [self._turn(keys[None, place : place + 1], start=offset)[0, 0] for place, offset in recalled]

    def _turn(self, states: Tensor, start: int = 0, step: int = 1) -> Tensor:
        """Rotate [heads, tokens, head_dim] at positions start, start + step, ...; negative ones too."""
        theta, dim = self.view.config.rope_parameters["rope_theta"], states.shape[-1]
        turned = torch.empty_like(states)
        for token in range(states.shape[1]):
            for i in range(dim // 2):
                angle = torch.tensor((start + step * token) / theta ** (2 * i / dim), dtype=torch.float32)
                cosine, sine = angle.cos().double(), angle.sin().double()
                first, second = states[:, token, i], states[:, token, i + dim // 2]
                turned[:, token, i] = first * cosine - second * sine
                turned[:, token, i + dim // 2] = second * cosine + first * sine
        return turned

    # recall

    def _recalled(self, layer: int, query: Tensor, end: int) -> list[tuple[int, int]]:
        """Places, in order, of sinks and recalled events that lie before `end`, and each one's place counted back from
        its event's end (0 for sinks). query: [heads, head_dim]."""
        sinks = min(self.config.num_sinks, end)
        events = []  # (first, end, event), cut off at the sinks and at the recent tokens
        for event in self.memory.events:
            first, last = max(event.first, sinks), min(event.first + event.size, end)
            if last > first:
                events.append((first, last, event))
        fits = sum(last - first for first, last, _ in events) <= self.config.event_budgets[0]
        if layer < self.recall_from_layer and not fits:
            events = []
        scores = [0.0] * len(events)
        for head in range(len(query)):
            own = [float(query[head] @ event.keys[layer][head]) for _, _, event in events]
            if self.config.vote == "softmax":
                keys = self.memory.keys[layer][head // self.llama.group][:sinks]
                lost = sum(math.exp(float(query[head] @ key) * self.llama.scaling) for key in keys)
                powers = [math.exp(product * self.llama.scaling) for product in own]
                own = [power / (lost + sum(powers)) for power in powers]
            scores = [score + product for score, product in zip(scores, own, strict=True)]
        sizes = [last - first for first, last, _ in events]
        if self.config.candidate_tokens is not None:
            meant = self.config.candidate_tokens
            if layer < self.view.num_layers * 3 // 8:
                meant = max(meant, int(self.config.early_candidates * self.memory.tokens))
            candidates = naive_selection(scores, sizes, meant, 0)
            scores = self._attention_votes(
                layer, query, sinks, {i: range(*events[i][:2]) for i in candidates}, len(events)
            )
        chosen = naive_selection(scores, sizes, *self.config.event_budgets)
        places = [(place, 0) for place in range(sinks)]
        for index in sorted(chosen):
            first, last, _ = events[index]
            places += [(place, place - last) for place in range(first, last)]
        return places

    def _attention_votes(
        self, layer: int, query: Tensor, sinks: int, candidates: dict[int, range], num_events: int
    ) -> list[float]:
        """How much attention each event gets where sinks and candidates (places of each) share a softmax, summed over
        heads; -inf for events that are no candidates."""
        votes = [-math.inf] * num_events
        for head in range(len(query)):
            keys = self.memory.keys[layer][head // self.llama.group]
            powers = [math.exp(float(query[head] @ key) * self.llama.scaling) for key in keys]
            total = sum(powers[:sinks]) + sum(powers[place] for own in candidates.values() for place in own)
            for event, own in candidates.items():
                votes[event] = max(votes[event], 0.0) + sum(powers[place] for place in own) / total
        return votes

    # events

    def _event_sizes(self, ids: Tensor, logits: Tensor, keys: list[Tensor]) -> list[int]:
        config, tokens = self.config, len(ids)
        if config.segmentation == "blocks":
            return naive_sizes([], tokens, 1, config.max_event_size)
        surprise = [float(-torch.log_softmax(logits[t], dim=0)[ids[t + 1]]) for t in range(tokens - 1)]
        boundaries = []
        if tokens > 1:
            surprise = [sum(surprise) / len(surprise), *surprise]
            mean = sum(surprise) / tokens
            deviation = (sum((s - mean) ** 2 for s in surprise) / (tokens - 1)) ** 0.5
            boundaries = [t for t in range(tokens) if surprise[t] > mean + config.gamma * deviation]
        if config.refinement != "none" and boundaries:
            similarity = torch.zeros(tokens, tokens, dtype=torch.float64)
            for own in keys[self.refine_from_layer :]:
                for a in range(tokens):
                    for b in range(tokens):
                        similarity[a, b] += (own[:, a] * own[:, b]).sum()
            boundaries = naive_refinement(boundaries, similarity, config.refinement, config.min_event_size)
        return naive_sizes(boundaries, tokens, config.min_event_size, config.max_event_size)

    def _remember(self, keys: list[Tensor], values: list[Tensor], attended: list[Tensor], sizes: list[int]) -> None:
        memory, start = self.memory, 0
        for size in sizes:
            found = []
            for own, received in zip(keys, attended, strict=True):
                heads = []
                for head in range(self.view.num_heads):
                    best = list(range(size))
                    if self.config.representative == "attended":
                        ranked = sorted(zip((-received[head, start : start + size]).tolist(), best, strict=True))
                        best = [place for _, place in ranked[: self.config.representative_tokens]]
                    heads.append(own[head // self.llama.group, [start + place for place in best]].mean(dim=0))
                found.append(torch.stack(heads))
            memory.events.append(NaiveEvent(memory.tokens + start, size, found))
            start += size
        memory.keys = [torch.cat(pair, dim=1) for pair in zip(memory.keys, keys, strict=True)]
        memory.values = [torch.cat(pair, dim=1) for pair in zip(memory.values, values, strict=True)]


def naive_selection(scores: list[float], sizes: list[int], budget: int, neighbour_budget: int) -> set[int]:
    """The events recalled by one query; see `select_events`."""
    if sum(sizes) <= budget:
        return set(range(len(sizes)))
    ranked = sorted(range(len(scores)), key=lambda i: -scores[i])
    similar = _fill(ranked, sizes, budget, set())
    around = [neighbour for event in similar for neighbour in (event + 1, event - 1)]
    inside = [event for event in around if 0 <= event < len(sizes)]
    return {*similar, *(_fill(inside, sizes, neighbour_budget, set(similar)) if neighbour_budget else [])}


def _fill(candidates: list[int], sizes: list[int], budget: int, known: set[int]) -> list[int]:
    """Take candidates until the budget is full, the last one only where that is nearer to it than without."""
    taken: list[int] = []
    total = 0
    for event in candidates:
        if event in known or event in taken:
            continue
        before, total = total, total + sizes[event]
        if total < budget or abs(budget - before) > abs(total - budget):
            taken.append(event)
        if total >= budget:
            break
    return taken


def naive_refinement(boundaries: list[int], similarity: Tensor, metric: str, min_size: int) -> list[int]:
    """Boundaries moved to the best cut; see `refine_boundaries`."""
    kept = boundaries[:1] + [b for a, b in zip(boundaries, boundaries[1:], strict=False) if b - a >= min_size]
    refined = [0]
    for event in kept:
        size = event - refined[-1]
        if size <= min_size:
            refined.append(event)
            continue
        start, end = max(0, refined[-1] - size // 2), min(len(similarity), event + size // 2)
        part = similarity[start:end, start:end]
        cuts = range(refined[-1] + min_size, event)
        goodness = [(naive_cut_score(part, cut - start, metric), -cut) for cut in cuts]
        refined.append(-max(goodness)[1])
    return refined[1:]


def naive_cut_score(similarity: Tensor, cut: int, metric: str) -> float:
    """Modularity of the two communities [0, cut) and [cut, n), as Newman defines it up to the released code's factor of
    a half; or minus the least conductance of the two."""
    n = len(similarity)
    total = float(similarity.sum())
    communities = [range(cut), range(cut, n)]
    if metric == "modularity":
        quality = 0.0
        for community in communities:
            for a in community:
                for b in community:
                    expected = float(similarity[a].sum()) * float(similarity[:, b].sum()) / total
                    quality += float(similarity[a, b]) - expected
        return quality / (2 * total)
    found = []
    for community in communities:
        others = [i for i in range(n) if i not in community]
        across = sum(float(similarity[a, b]) for a in community for b in others)
        within = sum(float(similarity[a, b]) for a in community for b in community)
        volume = min(within, total - within)
        found.append(across / (volume if volume != 0 else 1e-15))
    return -min(found)


def naive_sizes(boundaries: list[int], tokens: int, min_size: int, max_size: int) -> list[int]:
    """Events token by token: one ends where it is full, or before a boundary if it is long enough."""
    sizes, held = [], 0
    for token in range(tokens):
        if token in boundaries and held >= min_size:
            sizes.append(held)
            held = 0
        held += 1
        if held == max_size:
            sizes.append(held)
            held = 0
    return [*sizes, held] if held else sizes
