"""The one registered attention function, its views, their merging, and how plugins are attached to a model."""

from __future__ import annotations

from ltm.attention.attach import Plugin, StopForward, attach
from ltm.attention.function import ATTENTION_NAME, LocalView, Site, ltm_attention, open_site
from ltm.attention.positions import rotate, unrotate
from ltm.attention.views import Partial, View, attend, merge_gate, merge_softmax

__all__ = [
    "ATTENTION_NAME",
    "LocalView",
    "Partial",
    "Plugin",
    "Site",
    "StopForward",
    "View",
    "attach",
    "attend",
    "ltm_attention",
    "merge_gate",
    "merge_softmax",
    "open_site",
    "rotate",
    "unrotate",
]
