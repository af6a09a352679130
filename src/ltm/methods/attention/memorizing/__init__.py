"""Memorizing Transformers (Wu et al., 2022): one layer of the backbone also attends to its nearest past tokens.

Written out naively: tests/reference/memorizing.py.
"""

from __future__ import annotations

from ltm.methods.attention.memorizing.config import MemorizingConfig
from ltm.methods.attention.memorizing.model import Memorizing

__all__ = ["Memorizing", "MemorizingConfig"]
