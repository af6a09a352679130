"""The mixture of SideNet and backbone written out naively: probabilities, one token at a time."""

from __future__ import annotations

from collections.abc import Sequence

from ltm.methods.attention.longmem.mixture import REMEMBERED, SHARES


def naive_mixture(
    side: Sequence[Sequence[float]], backbone: Sequence[Sequence[float]], ids: Sequence[int]
) -> list[list[float]]:
    """Probabilities of what comes after each token of a text from those of the two networks, [tokens, vocab]."""
    weights, mixed = [1 / len(SHARES)] * len(SHARES), []
    for place, (own, other) in enumerate(zip(side, backbone, strict=True)):
        if place:
            came, one, two = ids[place], side[place - 1], backbone[place - 1]
            weights = [
                w**REMEMBERED * ((1 - a) * one[came] + a * two[came]) for w, a in zip(weights, SHARES, strict=True)
            ]
            weights = [weight / sum(weights) for weight in weights]
        share = sum(w * a for w, a in zip(weights, SHARES, strict=True))
        mixed.append([(1 - share) * p + share * q for p, q in zip(own, other, strict=True)])
    return mixed
