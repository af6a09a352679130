"""LongMem (Wang et al., 2023): frozen backbone, bank of keys and values, SideNet that retrieves and fuses.

Written out naively: tests/reference/longmem.py.
"""

from __future__ import annotations

from ltm.methods.attention.longmem.config import LongMemConfig
from ltm.methods.attention.longmem.model import LongMem
from ltm.methods.attention.longmem.sidenet import SideNet

__all__ = ["LongMem", "LongMemConfig", "SideNet"]
