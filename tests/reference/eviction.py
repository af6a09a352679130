"""Eviction written out naively: one chunk leaves after another."""

from __future__ import annotations


def naive_evict(chunks: list[dict], excess: int, policy: str, now: int) -> list[dict]:
    """Chunks as dicts (tokens, written, last, times); of the lowest scores the first leaves, until enough did."""
    chunks = list(chunks)
    while excess > 0 and chunks:
        scores = {
            "oldest": [place for place, _ in enumerate(chunks)],
            "least_recent": [chunk["last"] for chunk in chunks],
            "least_frequent": [chunk["times"] / (now - chunk["written"] + 1) for chunk in chunks],
        }[policy]
        excess -= chunks.pop(scores.index(min(scores)))["tokens"]
    return chunks
