"""Where events begin: at surprising tokens, moved to where keys cohere, and never too close nor too far apart.

Fountas et al., 2024, section 3.1 and 3.2, with the details of the released code (em-llm/EM-LLM-model), whose boundaries
these functions reproduce; `benchmarks/measurements/parity_em_llm.py` compares them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def token_surprise(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log probability of each target, nats: logits [tokens, vocab], targets int64 [tokens]."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    chosen = logits.gather(-1, targets[..., None])[..., 0]
    return torch.logsumexp(logits, dim=-1) - chosen


def surprising_tokens(surprise: Tensor, gamma: float) -> Tensor:
    """Places where surprise is above mean + gamma * standard deviation of all: surprise [tokens] -> int64 [places]."""
    if len(surprise) < 2:
        return torch.zeros(0, dtype=torch.int64)
    threshold = surprise.mean() + gamma * surprise.std()
    return (surprise > threshold).nonzero().squeeze(-1).cpu()


def key_similarity(keys: Tensor) -> Tensor:
    """Inner products of tokens' position-free keys, summed over layers and heads: keys [layers, kv_heads, tokens,
    head_dim] -> [tokens, tokens]."""
    flat = keys.permute(2, 0, 1, 3).flatten(1)  # [tokens, layers * kv_heads * head_dim]
    return flat @ flat.T


def refine_boundaries(boundaries: Sequence[int], similarity: Tensor, metric: str, min_size: int) -> list[int]:
    """Move each boundary back to where a cut between it and the last one separates keys best.

    boundaries: ascending places; similarity: [tokens, tokens], symmetric; metric: 'modularity' (the most wins) or
    'conductance' (the least). A cut is judged in a stretch that begins half an event before the last boundary and ends
    half an event after this one. Boundaries nearer than min_size to the one before are dropped.
    """
    if not len(boundaries):
        return []
    wanted = [int(boundaries[0])]
    wanted += [int(b) for a, b in zip(boundaries, boundaries[1:], strict=False) if b - a >= min_size]
    sums = _prefix_sums(similarity)
    refined = [0]
    for event in wanted:
        last, size = refined[-1], event - refined[-1]
        if size <= min_size:
            refined.append(event)
            continue
        start, end = max(0, last - size // 2), min(len(similarity), event + size // 2)
        scores = _cut_scores(sums, metric, start, end, torch.arange(last + min_size, event))
        refined.append(last + min_size + int(scores.argmax()))
    return refined[1:]


def event_sizes(boundaries: Sequence[int], tokens: int, min_size: int, max_size: int) -> list[int]:
    """Tokens of each event of `tokens` tokens that are cut at boundaries: whole max_size ones first where they are
    longer, and none but the last below min_size, those that are being joined to what follows."""
    sizes, held = [], 0
    edges = [0, *sorted({int(b) for b in boundaries if 0 < b < tokens}), tokens]
    for index, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        held += high - low
        while held >= max_size:
            sizes.append(max_size)
            held -= max_size
        if held >= min_size or index == len(edges) - 2:
            sizes += [held] if held else []
            held = 0
    return sizes


def _prefix_sums(similarity: Tensor) -> Tensor:
    """float64 [tokens + 1, tokens + 1]: entry (i, j) is the sum of similarity[:i, :j]."""
    sums = torch.zeros(len(similarity) + 1, len(similarity) + 1, dtype=torch.float64)
    sums[1:, 1:] = similarity.double().cpu().cumsum(0).cumsum(1)
    return sums


def _cut_scores(sums: Tensor, metric: str, start: int, end: int, cuts: Tensor) -> Tensor:
    """How good each cut of tokens start to end into two communities is, more is better, float64 [cuts]."""

    def block(a: Tensor | int, b: Tensor | int, c: Tensor | int, d: Tensor | int) -> Tensor:
        return sums[b, d] - sums[a, d] - sums[b, c] + sums[a, c]

    total = block(start, end, start, end)
    within = block(start, cuts, start, cuts), block(cuts, end, cuts, end)
    if metric == "modularity":
        degrees = block(start, cuts, start, end), block(cuts, end, start, end)
        expected = sum(degree**2 for degree in degrees) / total
        return (sum(within) - expected) / (2 * total)
    cut = block(start, cuts, cuts, end)
    volumes = [torch.minimum(own, total - own) for own in within]
    conductance = [cut / torch.where(volume == 0, 1e-15, volume) for volume in volumes]
    return -torch.minimum(*conductance)
