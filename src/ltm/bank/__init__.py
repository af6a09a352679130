"""The bank: write, search, gather, evict, delete, save, load. See `Bank`."""

from ltm.bank.bank import Bank
from ltm.bank.chunks import ChunkLayout, EventCut
from ltm.bank.config import BankConfig
from ltm.bank.disk.manifest import Manifest
from ltm.bank.events import EventTable
from ltm.bank.eviction import EVICTIONS, ChunkUsage
from ltm.bank.layered import BankPart, LayeredBank
from ltm.bank.method_entry import MethodEntry
from ltm.bank.query_delay import WaitingQueries
from ltm.bank.results import ChunkSource, DocumentInfo, Hits, Neighbours, Retrieved
from ltm.bank.search.exact import exact_search, joint_search
from ltm.bank.search.index import INDEXES
from ltm.bank.sharded import ShardedBank

__all__ = [
    "EVICTIONS",
    "INDEXES",
    "Bank",
    "BankConfig",
    "BankPart",
    "ChunkLayout",
    "ChunkSource",
    "ChunkUsage",
    "DocumentInfo",
    "EventCut",
    "EventTable",
    "Hits",
    "LayeredBank",
    "Manifest",
    "MethodEntry",
    "Neighbours",
    "Retrieved",
    "ShardedBank",
    "WaitingQueries",
    "exact_search",
    "joint_search",
]
