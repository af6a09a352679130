"""MemoryCache: the keys and values of the present window, reported to generate() in logical lengths."""

from __future__ import annotations

from ltm.cache.memory_cache import MemoryCache

__all__ = ["MemoryCache"]
