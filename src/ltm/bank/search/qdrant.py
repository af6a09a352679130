"""Chunk keys in Qdrant: in this process, or on a server or cluster that is larger than this machine."""

from __future__ import annotations

import os
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from ltm.bank.search.blockwise import as_floats, search_all
from ltm.bank.search.keys import SearchKeys
from ltm.errors import LtmError

URL_VARIABLE = "LTM_QDRANT_URL"
"""Environment variable with a server's address, http://host:6333; without it Qdrant runs inside this process."""
UPLOAD = 1024
"""Points sent at a time."""


class QdrantIndex:
    """One collection for each layer and kv head, brought up to date before a search, in float32; asked for exact
    results. Over all heads together it searches here, as the exact index does. Its collections go with it.

    Raises LtmError where qdrant-client is not installed or the server does not answer.
    """

    def __init__(self) -> None:
        self.models, self.client = _connect()
        self.name = f"ltm-{uuid4().hex}"
        self.held: dict[int, tuple[int, int]] = {}  # the range of chunks in it, counted from the index's making

    def search(self, keys: SearchKeys, layer: int, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        self._bring_up_to_date(keys, layer)
        heads = [self._ask(self._collection(layer, head), asked, top_k) for head, asked in enumerate(queries)]
        scores, ids = (torch.stack([found[i] for found in heads]) for i in (0, 1))
        return scores.to(queries), (ids - keys.num_evicted).to(queries.device)

    def search_joint(self, keys: SearchKeys, layer: int, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        return search_all(keys, layer, queries, top_k, jointly=True)

    def kept(self, indices: Tensor, num_evicted: int) -> QdrantIndex:
        for layer in self.held:
            self._remove_collections(layer)
        return QdrantIndex()

    def _ask(self, collection: str, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        exact = self.models.SearchParams(exact=True)
        requests = [
            self.models.QueryRequest(query=query, limit=top_k, params=exact) for query in queries.float().cpu().tolist()
        ]
        found = self.client.query_batch_points(collection, requests)
        scores = torch.tensor([[point.score for point in one.points] for one in found])
        return scores, torch.tensor([[point.id for point in one.points] for one in found])

    def _bring_up_to_date(self, keys: SearchKeys, layer: int) -> None:
        """Make the collections of a layer hold exactly the row's chunks, counted since the index was made."""
        first, end = keys.num_evicted, keys.num_evicted + keys.num_chunks
        had_first, had_end = self.held.get(layer, (0, 0))
        if first >= had_end:
            self._remove_collections(layer)
            size = self.models.VectorParams(size=keys.head_dim, distance=self.models.Distance.DOT)
            for head in range(keys.num_kv_heads):
                self.client.create_collection(self._collection(layer, head), vectors_config=size)
            had_first = had_end = first
        self.held[layer] = (first, end)
        added = as_floats(keys, layer, had_end - first, end - had_end).float().cpu()
        for head, new in enumerate(added):
            collection = self._collection(layer, head)
            if first > had_first:
                self.client.delete(collection, self.models.PointIdsList(points=list(range(had_first, first))))
            for start in range(0, end - had_end, UPLOAD):
                part = new[start : start + UPLOAD].tolist()
                ids = list(range(had_end + start, had_end + start + len(part)))
                self.client.upsert(collection, self.models.Batch(ids=ids, vectors=part), wait=True)

    def _remove_collections(self, layer: int) -> None:
        head = 0
        while self.client.collection_exists(self._collection(layer, head)):
            self.client.delete_collection(self._collection(layer, head))
            head += 1

    def _collection(self, layer: int, head: int) -> str:
        return f"{self.name}-{layer}-{head}"


def _connect() -> tuple[Any, Any]:
    """qdrant-client's models, and a client of the server named in the environment or of this process."""
    try:
        from qdrant_client import QdrantClient, models
    except ImportError as error:
        raise LtmError('index="qdrant" needs qdrant-client: pip install "ltm[qdrant]", or use index="auto"') from error
    url = os.environ.get(URL_VARIABLE)
    if not url:
        return models, QdrantClient(":memory:")
    client = QdrantClient(url=url)
    try:
        client.get_collections()
    except Exception as error:  # whatever the transport raises
        raise LtmError(f"no Qdrant answers at {url} ({error}); start one or unset {URL_VARIABLE}") from error
    return models, client
