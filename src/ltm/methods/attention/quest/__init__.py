"""Quest (Tang et al., 2024): a query attends only to the pages of the cache that may matter to it.

Written out naively: tests/reference/quest.py.
"""

from __future__ import annotations

from ltm.methods.attention.quest.config import QuestConfig
from ltm.methods.attention.quest.model import Quest

__all__ = ["Quest", "QuestConfig"]
