"""Quest written out naively: float64, one row, one head, one query, one page, one channel at a time.

For backbones built like Llama. The fast path must give the same pages, outputs and logits:
tests/methods/test_quest.py.
"""

from __future__ import annotations

from typing import Any

import torch
from reference.attention import naive_attention
from reference.naive_llama import NaiveLlama
from torch import Tensor

from ltm.methods.attention.quest.config import QuestConfig


def naive_page_score(query: Tensor, page_keys: Tensor) -> float:
    """Sum over channels of the larger of q_d m_d and q_d M_d (Tang et al., 2024, section 3.3).

    query: [head_dim]; page_keys: [tokens, head_dim], the keys of one page.
    """
    total = 0.0
    for channel in range(len(query)):
        q, smallest, largest = float(query[channel]), float(page_keys[0, channel]), float(page_keys[0, channel])
        for key in page_keys:
            smallest, largest = min(smallest, float(key[channel])), max(largest, float(key[channel]))
        total += max(q * smallest, q * largest)
    return total


def naive_pages(queries: Tensor, keys: Tensor, config: QuestConfig) -> list[int]:
    """The pages of one query, ascending.

    queries: [heads, head_dim], of all heads that choose together (one without `share_pages`); keys: [tokens, head_dim]
    up to the query's own token.
    """
    pages = [keys[start : start + config.page_size] for start in range(0, len(keys), config.page_size)]
    scores = [max(naive_page_score(query, page) for query in queries) for page in pages]
    ranked = sorted(range(len(pages)), key=lambda page: -scores[page])
    if config.current_page == "kept":
        ranked.remove(len(pages) - 1)
        ranked.insert(0, len(pages) - 1)
    return sorted(ranked[: config.num_pages])


def naive_seen(query: Tensor, keys: Tensor, head: int, token: int, config: QuestConfig) -> Tensor:
    """Numbers of the tokens that one head attends to at one token.

    query: [heads, tokens, head_dim]; keys: [kv_heads, tokens, head_dim].
    """
    group = len(query) // len(keys)
    first = head // group * group
    choosing = query[first : first + group, token] if config.share_pages else query[head : head + 1, token]
    pages = naive_pages(choosing.double(), keys[head // group, : token + 1].double(), config)
    tokens = [page * config.page_size + i for page in pages for i in range(config.page_size)]
    return torch.tensor([number for number in tokens if number <= token])


class NaiveQuest:
    """The forward pass of a `Quest` in float64, sharing its weights: one row that was read, and tokens after it."""

    def __init__(self, method: Any):
        self.config: QuestConfig = method.method_config
        self.view = method.backbone.view
        self.llama = NaiveLlama(self.view)

    def logits(self, read: Tensor, ids: Tensor) -> Tensor:
        """Logits [tokens, vocab] of `ids` [tokens] after `read` [tokens]."""
        hidden = self.view.embeddings(torch.cat((read, ids)))
        for index, layer in enumerate(self.view.layers):
            first_sparse = len(read) if index >= self.config.dense_layers else len(hidden)
            hidden = hidden + layer.self_attn.o_proj(self._attention(layer, hidden, first_sparse))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        assert self.view.final_norm is not None
        return self.view.logits(self.view.final_norm(hidden[len(read) :]))

    def _attention(self, layer: Any, hidden: Tensor, first_sparse: int) -> Tensor:
        """[tokens, heads * head_dim]: causal, and from the token `first_sparse` on over chosen pages alone."""
        llama = self.llama
        query = layer.self_attn.q_proj(layer.input_layernorm(hidden))
        query = llama.rotate(llama.split(query, self.view.num_heads))
        keys, values = llama.keys_values(layer, hidden)
        keys = llama.rotate(keys)
        seen_keys: list[list[list[Tensor]]] = [[]]
        seen_values: list[list[list[Tensor]]] = [[]]
        for head in range(self.view.num_heads):
            kv_head = head // llama.group
            seen = [
                torch.arange(token + 1) if token < first_sparse else naive_seen(query, keys, head, token, self.config)
                for token in range(len(hidden))
            ]
            seen_keys[0].append([keys[kv_head, tokens] for tokens in seen])
            seen_values[0].append([values[kv_head, tokens] for tokens in seen])
        output, _ = naive_attention(query[None], seen_keys, seen_values, llama.scaling)
        return output[0].transpose(0, 1).reshape(len(hidden), -1)
