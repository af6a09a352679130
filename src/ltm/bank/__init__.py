"""The bank: write, search, gather, evict, delete, save, load. See `Bank`."""

from ltm.bank.bank import Bank
from ltm.bank.chunks import ChunkLayout, EventCut
from ltm.bank.config import BankConfig
from ltm.bank.events import EventTable
from ltm.bank.hits import ChunkSource, DocumentInfo, Hits, Neighbours, Retrieved
from ltm.bank.index import INDEXES
from ltm.bank.manifest import Manifest
from ltm.bank.search import exact_search, joint_search, naive_search

__all__ = [
    "INDEXES",
    "Bank",
    "BankConfig",
    "ChunkLayout",
    "ChunkSource",
    "DocumentInfo",
    "EventCut",
    "EventTable",
    "Hits",
    "Manifest",
    "Neighbours",
    "Retrieved",
    "exact_search",
    "joint_search",
    "naive_search",
]
