"""The pointer: copies the token that followed where the past looked like the present (ours, beyond the paper).

A bank keeps token ids beside keys, so it knows what came after each remembered token. The pointer compares the present
token's position-free key of the memory layer with remembered keys of that layer, all heads together, turns the
nearest into a distribution over the tokens that followed them, and mixes it into the next-token distribution:

    s_j     = sum_h share_h * cos(W q_h, k_jh - center_h)           similarity of the present to remembered token j
    w_j     = softmax_j(sharpness * s_j + bias[run_j])              over the retrieved tokens that have a successor
    copy(v) = sum of w_j over the j that v followed                 what they say of the word v
    p(v)    is proportional to  p_model(v) + odds(v) * copy(v)

run_j is how many tokens up to j are the same as the present ones: keys tell what a place is about, runs whether it is
word for word the same. log odds(v) has two parts, both small networks: one of the present (the SideNet's output, the
best similarity, the longest run, what is copied most and what the model thinks of it, how much the copies agree), one
of the word (its mass, its model probability, its longest run and best similarity, how many places name it). With the
second at zero it is the mixture (1 - lambda) * p_model + lambda * copy with lambda = odds / (1 + odds). It costs no
byte a token, and with W = 1 it reads before it is trained (centre and spread of the keys come from the first training
segment). With `pointer_window_tokens` places of the present window are among the j too: see `window_reach`.

Sources: Grave et al., 2017 (continuous cache: the same mixture with hidden states for keys and a constant lambda);
Merity et al., 2017 (pointer sentinel: a learned lambda); Khandelwal et al., 2020 (kNN-LM: nearest neighbours in a
store, one lambda). Differences: keys are those that LongMem's attention remembers anyway, queries are trained, and each
word is weighed by its own evidence (docs/log has what each part is worth).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ltm.methods.loss import log_partition

START_SHARPNESS = 20.0
"""Inverse temperature over cosines: 0.05 of cosine is a factor e. From a search without training (docs/log)."""
START_SLOPE, START_THRESHOLD = 12.0, 0.98
"""lambda starts as sigmoid(12 * (best similarity - 0.98)): 0.56 at an exact repetition, 0.01 at 0.6."""
GATE_SIZE = 32
WORD_SIZE = 64
LONGEST_RUN = 16
"""Longer runs count as this long."""
PRESENT_EVIDENCE, WORD_EVIDENCE = 6, 7
"""How many figures the gate and the words' network look at."""
BLOCK, BLOCK_IN_CACHE = 2**18, 2**12
"""Candidates whose keys become floats together; the second on a CPU: three times as fast as all of a segment."""
WITHIN_ODDS = -0.5
"""Added to the log-odds of a word by the share of its mass that stands in the window, of which the model has copied
already what it would. Chosen on validation documents (docs/log)."""
LEAST_LOG = -20.0
"""Log-probabilities below look like this one to the networks."""


class Candidates(NamedTuple):
    """Remembered tokens that a query token may copy after: keys [batch, kv_heads, tokens, slots, head_dim]; next_ids
    int64 [batch, tokens, slots], the token that followed each, -1 where none is known; runs of the same shape, 0 to
    LONGEST_RUN."""

    keys: Tensor
    next_ids: Tensor
    runs: Tensor


class Copies(NamedTuple):
    """What the pointer would copy, of each slot [batch, tokens, slots]: its weight, float32, zero where there is no
    successor; its similarity, at least -1 (-1 where there is no successor); next_ids and runs as of `Candidates`. The
    last `num_within` slots stand in the window, where the model sees them itself."""

    weights: Tensor
    similarity: Tensor
    next_ids: Tensor
    runs: Tensor
    num_within: int = 0


class Words:
    """Slots by the word that they name, next_ids int64 [..., slots] (below 0: none).

    Words stand on an axis as long as the slots', in order of their ids; `ids` int64 [..., slots], -1 where there is no
    word. O(slots log slots), where comparing all pairs of slots would be their square.

    >>> words = Words(torch.tensor([7, -1, 5, 7]))
    >>> words.ids.tolist(), words.sum(torch.ones(4)).tolist()
    ([-1, 5, 7, -1], [1.0, 1.0, 2.0, 0.0])
    """

    def __init__(self, next_ids: Tensor):
        ordered, index = next_ids.sort(dim=-1, stable=True)
        new = functional.pad((ordered[..., 1:] != ordered[..., :-1]).long(), (1, 0))
        self.word_of = torch.zeros_like(index).scatter(-1, index, new.cumsum(dim=-1))
        """The place of each slot's word, [..., slots]."""
        self.ids = torch.full_like(next_ids, -1).scatter(-1, self.word_of, next_ids).clamp(min=-1)

    def sum(self, values: Tensor) -> Tensor:
        """Of each word, over its slots; values [..., slots]."""
        return torch.zeros_like(values).scatter_add(-1, self.word_of, values)

    def most(self, values: Tensor, least: float) -> Tensor:
        """The same, the largest; `least` where there is no slot."""
        return torch.full_like(values, least).scatter_reduce(-1, self.word_of, values, "amax")


class Pointer(nn.Module):
    """See the module's text. Works in float32 whatever its parameters and inputs are.

    num_kv_heads, head_dim: of the memory layer's keys; hidden_size: of the SideNet's output.

    >>> pointer = Pointer(3, 64, 576)
    >>> pointer.search_queries(torch.randn(1, 3, 5, 64)).shape
    torch.Size([1, 3, 5, 64])
    """

    def __init__(self, num_kv_heads: int, head_dim: int, hidden_size: int):
        super().__init__()
        width = num_kv_heads * head_dim
        self.shape = (num_kv_heads, head_dim)
        self.query = nn.Parameter(torch.eye(width))
        self.center = nn.Parameter(torch.zeros(width))  # one axis: weight decay passes it by
        self.spread = nn.Parameter(torch.ones(num_kv_heads))
        self.share = nn.Parameter(torch.zeros(num_kv_heads))
        self.log_sharpness = nn.Parameter(torch.tensor([math.log(START_SHARPNESS)]))
        self.run_bias = nn.Parameter(torch.zeros(LONGEST_RUN + 1))
        self.evidence = nn.Parameter(torch.tensor([START_SLOPE] + [0.0] * (PRESENT_EVIDENCE - 1)))
        self.threshold = nn.Parameter(torch.tensor([START_THRESHOLD]))
        self.gate_in = nn.Linear(hidden_size + PRESENT_EVIDENCE, GATE_SIZE)
        self.gate_out = nn.Linear(GATE_SIZE, 1, bias=False)
        self.word_in = nn.Linear(WORD_EVIDENCE, WORD_SIZE)
        self.word_out = nn.Linear(WORD_SIZE, 1, bias=False)
        nn.init.zeros_(self.gate_out.weight)
        nn.init.zeros_(self.word_out.weight)

    @property
    def is_calibrated(self) -> bool:
        """Whether centre and spread have been taken from keys."""
        return bool((self.center != 0).any())

    @torch.no_grad()
    def calibrate(self, keys: Tensor, mask: Tensor) -> None:
        """Take centre and spread from keys [batch, kv_heads, tokens, head_dim]; mask bool [batch, tokens]."""
        valid = _precise(keys).transpose(1, 2)[mask]  # [valid tokens, kv_heads, head_dim]
        center = valid.mean(dim=0)
        self.center.copy_(center.flatten())
        self.spread.copy_((valid - center).norm(dim=-1).mean(dim=0).clamp(min=1e-6))

    def unit_queries(self, keys: Tensor) -> Tensor:
        """Unit queries from the present tokens' keys, both [batch, kv_heads, tokens, head_dim]; float32."""
        centered = (_precise(keys) - self._center()).transpose(1, 2).flatten(2)  # [batch, tokens, width]
        mapped = functional.linear(centered, _precise(self.query))
        return functional.normalize(mapped.unflatten(-1, self.shape), dim=-1).transpose(1, 2)

    def search_queries(self, queries: Tensor) -> Tensor:
        """What to search with, so that inner products with raw keys, summed over heads, rank as similarity does.

        queries: from `unit_queries`. Each head is weighed by its share over the keys' spread. The direction of the
        keys' centre is taken out: it adds the same to every key, and in bf16 that would hide the differences.
        """
        center = functional.normalize(self._center(), dim=-1)  # [kv_heads, 1, head_dim]
        flat = queries - (queries * center).sum(dim=-1, keepdim=True) * center
        return flat * (self._shares() / _precise(self.spread)).view(1, -1, 1, 1)

    def similarity(self, queries: Tensor, candidates: Candidates) -> Tensor:
        """Of each candidate to its query, [batch, tokens, slots], -1 where it has no successor; differentiable in the
        queries, never in what is remembered."""
        keys, most = candidates.keys, BLOCK_IN_CACHE if candidates.keys.device.type == "cpu" else BLOCK
        size = max(1, most // max(1, keys.shape[0] * keys.shape[3]))
        blocks = zip(keys.split(size, dim=2), queries.split(size, dim=2), strict=True)
        cosines = torch.cat([self._cosines(*block) for block in blocks], dim=2)  # [batch, kv_heads, tokens, slots]
        usable = candidates.next_ids >= 0
        return (cosines * self._shares().view(1, -1, 1, 1)).sum(dim=1).masked_fill(~usable, -1.0)

    def similarity_to_all(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Of each query to each of the same keys [batch, kv_heads, columns, head_dim]: [batch, tokens, columns];
        differentiable as `similarity`."""
        with torch.no_grad():
            units = functional.normalize(_precise(keys) - self._center(), dim=-1)
        shared = queries * self._shares().view(1, -1, 1, 1)
        return shared.transpose(1, 2).flatten(2) @ units.transpose(1, 2).flatten(2).mT

    def _cosines(self, keys: Tensor, queries: Tensor) -> Tensor:
        """[batch, kv_heads, tokens, slots]."""
        with torch.no_grad():
            center = self._center()[:, None]
            dtype = torch.promote_types(keys.dtype, center.dtype)
            centered = keys.to(dtype, copy=True).sub_(center)  # [batch, kv_heads, tokens, slots, head_dim]
            lengths = torch.linalg.vector_norm(centered, dim=-1).clamp_(min=1e-12)
        return torch.matmul(centered, queries[..., None]).squeeze(-1) / lengths

    def weighed(self, similarity: Tensor, next_ids: Tensor, runs: Tensor, num_within: int = 0) -> Copies:
        """Copies of what lies at these similarities [batch, tokens, slots]; the rest as of `Copies`."""
        usable = next_ids >= 0
        scores = similarity * _precise(self.log_sharpness).exp() + _precise(self.run_bias)[runs]
        weights = torch.softmax(scores.masked_fill(~usable, -1e4), dim=-1) * usable
        return Copies(weights, similarity, next_ids, runs, num_within)

    def mix(self, logits: Tensor, hidden: Tensor, copies: Copies, trust: float = 0.0) -> tuple[Tensor, Tensor]:
        """Logits with what is copied mixed in, up to a constant a token; and how much each slot gave, [batch, tokens,
        slots]: its weight times odds / (1 + odds) of its word.

        logits [batch, tokens, vocab]; hidden [batch, tokens, hidden_size]: the SideNet's output; trust is added to
        the log-odds. Only logits of copied words change: z + log(1 + odds * copy / p_model).
        """
        words = Words(copies.next_ids)
        ids = words.ids.clamp(min=0)
        log_model = _precise(logits.gather(-1, ids)) - log_partition(logits)[..., None]
        gains, odds = self.gains(words, log_model, hidden, copies, trust)
        shares = torch.sigmoid(odds).gather(-1, words.word_of) * copies.weights
        return logits.scatter_add(-1, ids, gains.to(logits.dtype)), shares

    def gains(
        self,
        words: Words,
        log_model: Tensor,
        hidden: Tensor,
        copies: Copies,
        trust: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """What each word's logit gains, 0 where there is none, and its log-odds, both [batch, tokens, slots] of words.

        log_model: the words' log-probabilities under the model; the rest as of `mix`.
        """
        there, log_mass = words.ids >= 0, words.sum(copies.weights).clamp(min=1e-9).log()
        runs = words.most(copies.runs, 0).to(log_mass.dtype)
        present = self._present_odds(hidden, copies.similarity.amax(dim=-1), log_mass, log_model, runs, there)
        figures = (
            log_mass / 3,
            log_model.clamp(min=LEAST_LOG) / 5,
            runs.clamp(max=8) / 4,
            (runs == 0).to(log_mass.dtype),
            words.most(copies.similarity.detach(), -1.0),
            words.sum(torch.ones_like(log_mass)).clamp(min=1).log(),
            (present / 3)[..., None].expand_as(log_mass),
        )
        odds = present[..., None] + _network(torch.stack(figures, dim=-1), self.word_in, self.word_out) + trust
        if copies.num_within:
            within = functional.pad(copies.weights[..., -copies.num_within :], (there.shape[-1] - copies.num_within, 0))
            odds = odds + WITHIN_ODDS * words.sum(within) / log_mass.exp()
        return torch.where(there, functional.softplus(odds + log_mass - log_model), 0.0), odds

    def _present_odds(
        self, hidden: Tensor, best: Tensor, log_mass: Tensor, log_model: Tensor, runs: Tensor, there: Tensor
    ) -> Tensor:
        """The present's part of the log-odds, [batch, tokens]; the last four arguments are of words."""
        top_mass, top = log_mass.masked_fill(~there, LEAST_LOG).max(dim=-1, keepdim=True)
        agreement = (log_mass * log_mass.exp()).where(there, 0.0).sum(dim=-1)
        figures = (
            best - _precise(self.threshold),
            top_mass.squeeze(-1),
            log_model.gather(-1, top).squeeze(-1).clamp(min=LEAST_LOG) / 3,
            runs.amax(dim=-1).log1p(),
            runs.gather(-1, top).squeeze(-1).log1p(),
            -agreement,
        )
        evidence = torch.stack(figures, dim=-1)
        inner = torch.cat((_precise(hidden), evidence), dim=-1)
        return (evidence * _precise(self.evidence)).sum(dim=-1) + _network(inner, self.gate_in, self.gate_out)

    def _center(self) -> Tensor:
        """[kv_heads, 1, head_dim]; set by `calibrate`, not by gradients."""
        return _precise(self.center.detach()).view(self.shape[0], 1, self.shape[1])

    def _shares(self) -> Tensor:
        """[kv_heads], which sum to 1."""
        return torch.softmax(_precise(self.share), dim=0)


def _network(inner: Tensor, first: nn.Linear, second: nn.Linear) -> Tensor:
    """Two layers to one figure, [...], in float32 at least."""
    hidden = functional.linear(inner, _precise(first.weight), _precise(first.bias))
    return functional.linear(functional.gelu(hidden), _precise(second.weight)).squeeze(-1)


def _precise(tensor: Tensor) -> Tensor:
    """In float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
