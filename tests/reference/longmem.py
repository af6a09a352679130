"""LongMem written out naively: float64, one segment, one query, one head at a time; for backbones built like Llama.

Nothing here calls the attention function, the bank, the cache or a decoder layer's forward: it is the paper's text in
loops, and the fast path must give the same logits, the same memory and the same gradients (tests/methods).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from reference.attention import naive_attention, naive_token_to_chunk
from reference.naive_llama import NaiveLlama
from torch import Tensor
from torch.nn.functional import gelu

from ltm.methods.attention.longmem.pointer import LEAST_LOG, LONGEST_RUN, WITHIN_ODDS
from ltm.methods.attention.longmem.window_reach import TOKENS_BACK


@dataclass
class NaiveMemory:
    """One row's past as chunks of position-free keys and values, each [kv_heads, up to chunk_size, head_dim]."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    token_ids: list[list[int]] = field(default_factory=list)

    def write(self, keys: Tensor, values: Tensor, ids: Tensor, chunk_size: int, memory_size: int) -> None:
        """Append a segment cut into chunks, each [kv_heads, up to chunk_size, head_dim]; the oldest chunks leave."""
        self.keys += list(keys.split(chunk_size, dim=1))
        self.values += list(values.split(chunk_size, dim=1))
        self.token_ids += [chunk.tolist() for chunk in ids.split(chunk_size)]
        while sum(chunk.shape[1] for chunk in self.keys) > memory_size:
            del self.keys[0], self.values[0], self.token_ids[0]

    @property
    def flat_ids(self) -> list[int]:
        """All token ids in order."""
        return [token for chunk in self.token_ids for token in chunk]


class NaiveLongMem:
    """The forward pass of a `LongMem` on a Llama-like backbone, sharing its weights.

    method: in float64. `score_and_read` is training's pass over whole segments of a batch without padding; after
    `begin_stream` it is a stream of whole windows, whose past is a second source beside what was read before.
    """

    def __init__(self, method: Any):
        self.method, self.config = method, method.method_config
        self.view = method.backbone.view
        self.llama = NaiveLlama(self.view)
        self.memories: list[NaiveMemory] = []
        self.banks: list[NaiveMemory] = []

    def begin_stream(self) -> None:
        """What was remembered becomes a source of its own, which nothing is added to."""
        self.banks, self.memories = self.memories, []

    def score_and_read(self, ids: Tensor) -> Tensor:
        """Logits [batch, tokens, vocab]; each segment is scored on its own and then remembered."""
        self.memories = self.memories or [NaiveMemory() for _ in ids]
        banks = self.banks or [NaiveMemory() for _ in ids]
        rows = []
        for row, memory, bank in zip(ids, self.memories, banks, strict=True):
            pieces = [self._segment(segment, memory, bank) for segment in row.split(self.config.segment_size)]
            rows.append(torch.cat(pieces))
        return torch.stack(rows)

    def _segment(self, ids: Tensor, memory: NaiveMemory, bank: NaiveMemory) -> Tensor:
        """Logits [tokens, vocab] of one segment of one row."""
        sources = [source for source in (bank, memory) if source.keys]
        sidenet, factor = self.method.sidenet, self.config.reduction_factor
        hidden = self.view.embeddings(ids)  # [tokens, hidden_size]
        states, remembered = [hidden], None
        for index, layer in enumerate(self.view.layers):
            if index == self.method.memory_layer and not self.config.coupled:
                remembered = self.llama.keys_values(layer, hidden)
            hidden = self.llama.layer(layer, hidden)
            states.append(hidden)
        side = states[0]
        for index, layer in enumerate(sidenet.layers):
            if index == sidenet.memory_layer and self.config.coupled:
                remembered = self.llama.keys_values(layer, side)
            reads = index == sidenet.memory_layer and sources
            fuse = partial(self._fuse, sources=sources) if reads else None
            side = self.llama.layer(layer, side, fuse) + states[factor * (index + 1)] - states[factor * index]
        assert remembered is not None
        output = sidenet.norm(side)
        logits = self.view.head(output)
        if sidenet.pointer is not None and (sources or self.config.pointer_window_tokens):
            logits = self._copy(sidenet.pointer, logits, output, remembered[0], ids.tolist(), sources)
        keys, values = remembered
        memory.write(keys.detach(), values.detach(), ids, self.config.chunk_size, self.config.memory_size)
        return logits

    def _copy(
        self,
        pointer: Any,
        logits: Tensor,
        output: Tensor,
        keys: Tensor,
        ids: list[int],
        sources: list[NaiveMemory],
    ) -> Tensor:
        """Logits [tokens, vocab], up to a constant a token, of the mixture with what the pointer copies."""
        heads, center = range(len(keys)), pointer.center.detach().view(pointer.shape)
        shares, mixed = torch.softmax(pointer.share, dim=0), []
        means = [chunk.mean(dim=1) for source in sources for chunk in source.keys]  # [kv_heads, head_dim]
        for t in range(len(logits)):
            query = (pointer.query @ (keys[:, t] - center).flatten()).view(pointer.shape)
            query = torch.stack([query[h] / query[h].norm().clamp(min=1e-12) for h in heads])
            places = self._places(self._nearest(pointer, query.detach(), means, center, shares.detach()), sources)
            within = {
                place: self._similarity(query, keys[:, place].detach() - center, shares)
                for place in range(t + 1 - TOKENS_BACK)
            }
            nearby = sorted(within, key=lambda place: -float(within[place].detach()))[
                : self.config.pointer_window_tokens
            ]
            if not places and not nearby:
                mixed.append(logits[t])
                continue
            remembered = [torch.cat(source.keys, dim=1)[:, place] for source, place in places]
            similarity = [self._similarity(query, key - center, shares) for key in remembered]
            runs = [self._run(ids[: t + 1], place, source) for source, place in places]
            copied = [source.flat_ids[place + 1] for source, place in places]
            for place in nearby:
                similarity.append(within[place])
                runs.append(0)
                copied.append(ids[place + 1])
            mixed.append(
                self._mixture(pointer, logits[t], output[t], torch.stack(similarity), copied, runs, len(nearby))
            )
        return torch.stack(mixed)

    @staticmethod
    def _similarity(query: Tensor, centered: Tensor, shares: Tensor) -> Tensor:
        """Of one query to one centred key, both [kv_heads, head_dim]: their heads' cosines by their shares, []."""
        cosines = [torch.cosine_similarity(query[h], centered[h], dim=0) for h in range(len(query))]
        return shares @ torch.stack(cosines)

    @staticmethod
    def _places(found: list[int], sources: list[NaiveMemory]) -> list[tuple[NaiveMemory, int]]:
        """The tokens of chunks, counted over all sources, that have a successor: their source and place in it."""
        places, before = [], 0
        for source in sources:
            start = 0
            for number, chunk in enumerate(source.token_ids, before):
                if number in found:
                    places += [(source, place) for place in range(start, start + len(chunk))]
                start += len(chunk)
            before += len(source.token_ids)
        return [(source, place) for source, place in places if place + 1 < len(source.flat_ids)]

    def _run(self, present: list[int], place: int, memory: NaiveMemory) -> int:
        """How many tokens up to this place of the memory equal the last ones of the present."""
        past: list[int] = []
        for chunk in memory.token_ids:
            left = place + 1 - len(past)
            if left <= 0:
                break
            if len(chunk) < self.config.chunk_size and left > len(chunk):
                past, place = [], place - len(past) - len(chunk)  # one that is not full ends what lies before
            else:
                past = past + chunk[:left]
        pairs = zip(reversed(past), reversed(present), strict=False)
        run = 0
        for one, other in pairs:
            if one != other or run == LONGEST_RUN:
                break
            run += 1
        return run

    def _nearest(self, pointer: Any, query: Tensor, means: list[Tensor], center: Tensor, shares: Tensor) -> list[int]:
        """The best chunks of one query over all heads together, in order of place."""
        scores = []
        for mean in means:
            score = 0.0
            for h in range(len(query)):
                along = center[h] / center[h].norm().clamp(min=1e-12)
                flat = query[h] - (query[h] @ along) * along
                score += float(shares[h] / pointer.spread[h].detach() * (flat @ mean[h].detach()))
            scores.append(score)
        order = sorted(range(len(scores)), key=lambda c: -scores[c])
        return sorted(order[: self.config.pointer_tokens // self.config.chunk_size])

    def _mixture(
        self,
        pointer: Any,
        logits: Tensor,
        output: Tensor,
        similarity: Tensor,
        copied: list[int],
        runs: list[int],
        num_within: int,
    ) -> Tensor:
        """log(p_model + odds * copy) + logsumexp of the logits, [vocab]."""
        weights = torch.softmax(similarity * pointer.log_sharpness.exp() + pointer.run_bias[runs], dim=0)
        log_model = torch.log_softmax(logits, dim=0)
        places = {word: [j for j, other in enumerate(copied) if other == word] for word in copied}
        log_mass = {word: weights[own].sum().clamp(min=1e-9).log() for word, own in places.items()}
        longest = {word: torch.tensor(float(max(runs[j] for j in own))) for word, own in places.items()}
        top = max(sorted(log_mass), key=lambda word: float(log_mass[word].detach()))
        evidence = torch.stack(
            (
                similarity.max() - pointer.threshold[0],
                log_mass[top],
                log_model[top].clamp(min=LEAST_LOG) / 3,
                torch.tensor(float(max(runs))).log1p().to(logits),
                longest[top].log1p().to(logits),
                -torch.stack([mass * mass.exp() for mass in log_mass.values()]).sum(),
            )
        )
        network = pointer.gate_out(gelu(pointer.gate_in(torch.cat((output, evidence)))))[0]
        present = evidence @ pointer.evidence + network
        mixed = logits.clone()
        for word, own in places.items():
            figures = torch.stack(
                (
                    log_mass[word] / 3,
                    log_model[word].clamp(min=LEAST_LOG) / 5,
                    longest[word].clamp(max=8).to(logits) / 4,
                    (longest[word] == 0).to(logits),
                    similarity[own].max().detach(),
                    torch.tensor(float(len(own))).log().to(logits),
                    present / 3,
                )
            )
            own_odds = pointer.word_out(gelu(pointer.word_in(figures)))[0]
            within = [weights[j] for j in own if j >= len(copied) - num_within]
            share = sum(within, torch.zeros(())) / log_mass[word].exp()
            odds = torch.exp(present + own_odds + self.config.pointer_trust + WITHIN_ODDS * share)
            mixed[word] = (log_model[word].exp() + odds * log_mass[word].exp()).log() + torch.logsumexp(logits, dim=0)
        return mixed

    def _fuse(self, local: Tensor, local_lse: Tensor, query: Tensor, sources: list[NaiveMemory]) -> Tensor:
        """Equation 5 of the paper, or one softmax over both: [1, heads, tokens, head_dim]."""
        num_chunks = self.config.retrieved_tokens // self.config.chunk_size
        group = self.llama.group
        keys: list[list[list[Tensor]]] = [[]]
        values: list[list[list[Tensor]]] = [[]]
        for h, head in enumerate(query):
            own_keys = [chunk[h // group] for source in sources for chunk in source.keys]
            own_values = [chunk[h // group] for source in sources for chunk in source.values]
            means = torch.stack([chunk.mean(dim=0) for chunk in own_keys])
            best = [naive_token_to_chunk(q.detach(), means, 1, num_chunks) for q in head]
            keys[0].append([torch.cat([own_keys[c] for c in chosen]) for chosen in best])
            values[0].append([torch.cat([own_values[c] for c in chosen]) for chosen in best])
        remembered, lse = naive_attention(query[None], keys, values, self.llama.scaling)
        gate = self.method.sidenet.local_share()
        shared = torch.sigmoid(local_lse - lse)[..., None]  # exp(a) / (exp(a) + exp(b))
        weight = shared if gate is None else gate.double().view(1, -1, 1, 1)
        return weight * local + (1 - weight) * remembered
