"""Real attention keys and queries of a backbone, for the search benchmarks; made once and kept outside of the project.

    python benchmarks/measurements/real_keys.py --data DATA --keys keys.safetensors  # 3 to 4 minutes on one core

Texts of three kinds are encoded as they are remembered: in segments of 256 tokens, each on its own. Kept are the
position-free keys of a few neighbouring layers, and of the middle one the queries of the tokens that follow each
document's remembered part: what a model asks for when it goes on in a text it has read.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from common import KINDS, notice
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltm.attention import Plugin, View, attach
from ltm.attention.attach import StopForward
from ltm.backbone import Backbone, load_backbone

SEGMENT = 256
BATCH = 8
DOCUMENT_TOKENS = 16_384
"""Of each document so many tokens are remembered; the segment after them asks."""


class Collector(Plugin):
    """Keys of some layers and queries of one of them, position-free; ends the pass after the last of them."""

    def __init__(self, layers: Sequence[int], asking: int):
        self.observed_layers = layers
        self.viewed_layers = (asking,)
        self.last = max(layers)
        self.keys: dict[int, Tensor] = {}
        self.queries: Tensor | None = None

    def observe(self, layer: int, keys: Tensor, values: Tensor) -> None:
        self.keys[layer] = keys
        if layer == self.last and layer not in self.viewed_layers:
            raise StopForward

    def views(self, layer: int, query: Tensor) -> Sequence[View]:
        self.queries = query
        if layer == self.last:
            raise StopForward
        return ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with books/, techdocs/, latex_math/")
    parser.add_argument("--keys", type=Path, required=True, help="file to write")
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=262_144)
    parser.add_argument("--layers", default="17,18,19,20", help="the second one's queries are kept")
    arguments = parser.parse_args()
    layers = [int(layer) for layer in arguments.layers.split(",")]
    collect(load_backbone(arguments.backbone), arguments.data, layers, arguments.tokens, arguments.keys)


@torch.no_grad()
def collect(backbone: Backbone, data: Path, layers: Sequence[int], tokens: int, file: Path) -> None:
    """Write keys [layers, kv_heads, tokens, head_dim] and queries [heads, asking tokens, head_dim] to a file."""
    asking = layers[min(1, len(layers) - 1)]
    keys: list[Tensor] = []
    queries: list[Tensor] = []
    for document in documents(backbone, data):
        done = sum(part.shape[2] for part in keys)
        if done >= tokens:
            break
        for start in range(0, len(document), BATCH):
            collector = Collector(layers, asking)
            try:
                with attach(backbone.view, collector):
                    backbone.model(document[start : start + BATCH], use_cache=False)
            except StopForward:
                pass
            last = start + BATCH >= len(document)
            stacked = torch.stack([collector.keys[layer] for layer in layers])  # [layers, batch, kv_heads, 256, dim]
            kept = stacked[:, :-1] if last else stacked
            keys.append(kept.transpose(1, 2).flatten(2, 3).clone())
            if last and collector.queries is not None:
                queries.append(collector.queries[-1].clone())
        notice(f"{done:,} of {tokens:,} tokens")
    together = torch.cat(keys, dim=2)[:, :, :tokens].contiguous()
    asked = torch.cat(queries, dim=1).contiguous()
    file.parent.mkdir(parents=True, exist_ok=True)
    about = {"backbone": backbone.name, "layers": json.dumps(list(layers)), "asking": str(asking)}
    save_file({"keys": together, "queries": asked}, file, metadata=about)
    notice(f"wrote {file}: keys {tuple(together.shape)}, queries {tuple(asked.shape)}, {together.dtype}")


def documents(backbone: Backbone, data: Path) -> Iterator[Tensor]:
    """Token ids of documents, the three kinds in turn, each int64 [segments, SEGMENT]."""
    readers = [_texts(data / kind / "train.jsonl.gz") for kind in KINDS]
    while True:
        for reader in readers:
            text = next(reader)[: 8 * DOCUMENT_TOKENS]
            ids = backbone.tokenizer(text, return_tensors="pt", verbose=False)["input_ids"][0]
            segments = min(len(ids), DOCUMENT_TOKENS + SEGMENT) // SEGMENT
            if segments > 1:
                yield ids[: segments * SEGMENT].view(segments, SEGMENT)


def _texts(file: Path) -> Iterator[str]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def load_real_keys(file: Path, chunk_size: int, num_layers: int) -> tuple[Tensor, Tensor]:
    """Search keys [kv_heads, chunks, head_dim] (means of chunk_size keys; layers one after another) and queries
    [heads, asking tokens, head_dim] in the backbone's dtype, from what `collect` wrote.

    The layer that asks comes first, so that one layer is its own keys alone.
    """
    held = load_file(file)
    keys = held["keys"]
    order = [1, 0, *range(2, keys.shape[0])] if keys.shape[0] > 1 else [0]
    chosen = keys[order[:num_layers]].transpose(0, 1)  # [kv_heads, layers, tokens, head_dim]
    tokens = chosen.shape[2] // chunk_size * chunk_size
    means = chosen[:, :, :tokens].float().unflatten(2, (-1, chunk_size)).mean(dim=3).to(keys.dtype)
    return means.flatten(1, 2).contiguous(), held["queries"]


if __name__ == "__main__":
    main()
