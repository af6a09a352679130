"""The bank: write, search, gather, evict, delete, save, load. See `Bank`."""

from ltm.bank.bank import Bank
from ltm.bank.chunks import ChunkLayout, EventCut
from ltm.bank.config import BankConfig
from ltm.bank.events import EventTable
from ltm.bank.eviction import EVICTIONS, Usage
from ltm.bank.hits import ChunkSource, DocumentInfo, Hits, Neighbours, Retrieved
from ltm.bank.index import INDEXES
from ltm.bank.manifest import Manifest
from ltm.bank.search import exact_search, joint_search, naive_search
from ltm.bank.sharded import ShardedBank
from ltm.bank.waiting import WaitingQueries

__all__ = [
    "EVICTIONS",
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
    "ShardedBank",
    "Usage",
    "WaitingQueries",
    "exact_search",
    "joint_search",
    "naive_search",
]
