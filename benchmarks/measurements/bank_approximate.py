"""Recall against time of approximate search on real attention keys and queries, for the choices there are.

    python benchmarks/measurements/real_keys.py --data DATA --keys keys.safetensors  # once, 3 to 4 minutes
    OMP_NUM_THREADS=1 python benchmarks/measurements/bank_approximate.py --keys keys.safetensors
        # 256k chunks, 5 minutes
    OMP_NUM_THREADS=1 python benchmarks/measurements/bank_approximate.py --keys keys.safetensors --layers 4
        # 1M chunks, 10 min

One chunk a token, so that there are as many keys as tokens. With --layers 1 all keys are of the layer that asks; with
more, keys of neighbouring layers stand in for further text: easier to tell apart than more text of the same layer
would be. Each search is one token of one kv head (3 queries of 64), k = 16, one thread; milliseconds of processor
time. Recall@16: the share of what was found whose float32 score is among the 16 best, ties counted; bf16 keys and
queries as the backbone made them. What clusters are made for comes from other tokens than those that ask. Writes
benchmarks/results/bank_approximate_N.json after each choice (those that are there are not run again).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from common import RESULTS, machine, notice, print_table, write_result
from real_keys import load_real_keys
from torch import Tensor

from ltm.bank import exact_search
from ltm.bank.search.clusters import Clusters

TOP_K, ASKING = 16, 200
Search = Callable[[Tensor], tuple[object, Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=Path, required=True, help="what benchmarks/measurements/real_keys.py wrote")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--heads", default="0,1,2", help="kv heads; figures are means over them")
    parser.add_argument("--only", default="exact,clusters,clusters of keys,ivf,hnsw")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keys, queries = load_real_keys(arguments.keys, 1, arguments.layers)
    heads = [int(head) for head in arguments.heads.split(",")]
    name = f"bank_approximate_{keys.shape[1]}"
    rows = _known(name)
    for choice in arguments.only.split(","):
        for head in heads:
            if any(row["choice"] == choice and row["head"] == head for row in rows):
                continue
            rows += measure(choice, head, keys[head], queries.unflatten(0, (keys.shape[0], -1))[head])
            write_result(
                name, {"chunks": keys.shape[1], "layers": arguments.layers, "rows": rows, "machine": machine()}
            )
    report(name, keys.shape[1], rows)


def measure(choice: str, head: int, keys: Tensor, queries: Tensor) -> list[dict]:
    """Rows of one choice on one head; queries [group, tokens, head_dim]."""
    order = torch.randperm(queries.shape[1], generator=torch.Generator().manual_seed(0))
    asking = queries[:, order[:ASKING]].transpose(0, 1)  # [asking, group, head_dim]
    sample = queries[:, order[ASKING : ASKING + 700]].flatten(0, 1)
    least = truth(keys, asking)
    started, rows = time.process_time(), []
    for setting, search in CHOICES[choice](keys, sample):
        built = time.process_time() - started
        found = torch.stack([search(token)[1] for token in asking])  # [asking, group, TOP_K]
        scores = torch.einsum("tgd,tgkd->tgk", asking.float(), keys[found].float())
        recall = float((scores >= least[..., None] - 1e-3).float().mean())
        row = {"choice": choice, "setting": setting, "head": head, "recall": recall, "ms": _ms(search, asking)}
        rows.append({**row, "built_s": round(built, 1)})
        notice(f"head {head} {choice} {setting}: recall {recall:.4f}, {row['ms']:.3f} ms a token, built {built:.0f} s")
    return rows


def truth(keys: Tensor, asking: Tensor) -> Tensor:
    """The score of the 16th best key in float32, [asking, group]."""
    return exact_search(asking.reshape(1, -1, asking.shape[-1]).float(), keys[None].float(), TOP_K)[0][0, :, -1].view(
        asking.shape[:2]
    )


def _ms(search: Search, asking: Tensor) -> float:
    """Least mean of three rounds over 40 tokens."""
    times = []
    for _ in range(3):
        started = time.process_time()
        for token in asking[:40]:
            search(token)
        times.append((time.process_time() - started) / 40)
    return 1000 * min(times)


def exact(keys: Tensor, sample: Tensor) -> Iterator[tuple[str, Search]]:
    def search(token: Tensor) -> tuple[Tensor, Tensor]:
        scores, indices = exact_search(token[None], keys[None], TOP_K)
        return scores[0], indices[0]

    yield str(keys.dtype).removeprefix("torch."), search


def clusters(keys: Tensor, sample: Tensor) -> Iterator[tuple[str, Search]]:
    made = Clusters(keys, torch.arange(len(keys)), sample)
    for probes in (8, 16, 32, 64, 80, 96, 128):
        made.probes = probes
        yield f"probes {probes} of {len(made.means)}", lambda token: made.search(token, TOP_K)


def clusters_of_keys(keys: Tensor, sample: Tensor) -> Iterator[tuple[str, Search]]:
    """Ours without the queries: as if every direction were asked for alike."""
    yield from clusters(keys, torch.eye(keys.shape[1]).repeat(100, 1))


def ivf(keys: Tensor, sample: Tensor) -> Iterator[tuple[str, Search]]:
    import faiss

    faiss.omp_set_num_threads(1)
    lists = 2048 if len(keys) < 2**19 else 4096
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(keys.shape[1]), keys.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid = 48
    vectors = keys.float().numpy()
    index.train(vectors)
    index.add(vectors)
    for probes in (8, 16, 32, 64, 128, 256):
        index.nprobe = probes
        yield f"nprobe {probes} of {lists}", _faiss_search(index)


def hnsw(keys: Tensor, sample: Tensor) -> Iterator[tuple[str, Search]]:
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexHNSWFlat(keys.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 80
    index.add(keys.float().numpy())
    for breadth in (32, 64, 128, 256, 512):
        index.hnsw.efSearch = breadth
        yield f"M 32, efSearch {breadth}", _faiss_search(index)


def _faiss_search(index: object) -> Search:
    def search(token: Tensor) -> tuple[object, Tensor]:
        scores, found = index.search(token.float().numpy(), TOP_K)  # type: ignore[attr-defined]
        return scores, torch.from_numpy(found).clamp_(min=0)

    return search


CHOICES = {"exact": exact, "clusters": clusters, "clusters of keys": clusters_of_keys, "ivf": ivf, "hnsw": hnsw}


def _known(name: str) -> list[dict]:
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text())["rows"] if file.exists() else []


def report(name: str, chunks: int, rows: list[dict]) -> None:
    """A table of means over heads."""
    settings: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        settings.setdefault((row["choice"], row["setting"]), []).append(row)
    means = {
        key: tuple(sum(row[what] for row in some) / len(some) for what in ("recall", "ms", "built_s"))
        for key, some in settings.items()
    }
    base = next((value[1] for key, value in means.items() if key[0] == "exact"), float("nan"))
    header = ["choice", "setting", "recall@16", "ms a token and kv head", "times as fast as exact", "built in s"]
    print_table(
        header,
        [[c, s, f"{r:.3f}", f"{ms:.3f}", f"{base / ms:.1f}", f"{b:.0f}"] for (c, s), (r, ms, b) in means.items()],
    )


if __name__ == "__main__":
    main()
