"""Our events, recalled blocks and attention beside those of the released EM-LLM code, on the same tensors.

    git clone https://github.com/em-llm/EM-LLM-model && python benchmarks/measurements/parity_em_llm.py EM-LLM-model

The released code needs CUDA and an old transformers as a whole; its functions do not. Compared are boundaries after
refinement (similarity_refinement), how boundaries become blocks (ContextManager.update_memory), which blocks are
recalled (ContextManager._calc_topk_blocks), representative keys (ContextManager.get_block_k), and output and attention
received of one call over window and memory (TorchMultiStageDotProductAttention). Prints what was compared and writes
tests/methods/attention/em_llm_released.json: small inputs, by seed, with the released code's answers, which
tests/methods/attention/test_em_llm.py holds ours to wherever the checkout is not at hand.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ltm.attention import attend, merge_softmax
from ltm.attention.views import total_lse
from ltm.methods.attention.em_llm.segmentation import event_sizes, refine_boundaries
from ltm.methods.attention.em_llm.selection import representative_keys, select_events

FIXTURES = Path(__file__).parents[2] / "tests" / "methods" / "attention" / "em_llm_released.json"
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="directory of the released code")
    checkout = parser.parse_args().checkout
    released = Released(checkout)
    found = {
        "refinement": [refinement(released, seed, metric) for seed in range(6) for metric in METRICS],
        "blocks": [blocks(released, seed) for seed in range(8)],
        "selection": [selection(released, seed) for seed in range(12)],
    }
    representative(released)
    attention(released)
    for name, cases in found.items():
        print(f"{name}: {len(cases)} cases agree")
    source = {"repository": "github.com/em-llm/EM-LLM-model", "commit": commit_of(checkout)}
    FIXTURES.write_text(
        json.dumps({"source": source, "made_by": "benchmarks/measurements/parity_em_llm.py", **found}) + "\n"
    )
    print(f"wrote {FIXTURES.name}")


METRICS = ("modularity", "conductance")


class Released:
    """The parts of the released code that run without CUDA, loaded past its packages' own imports."""

    def __init__(self, checkout: Path):
        if not (checkout / "em_llm" / "attention" / "context_manager.py").is_file():
            raise SystemExit(
                f"{checkout} is no checkout of EM-LLM-model: em_llm/attention/context_manager.py is missing"
            )
        for name in ("em_llm", "em_llm.attention"):
            package = ModuleType(name)
            package.__path__ = [str(checkout.joinpath(*name.split(".")))]
            sys.modules[name] = package
        self.manager: Any = importlib.import_module("em_llm.attention.context_manager").ContextManager
        dots = importlib.import_module("em_llm.attention.dot_product_attention")
        self.attention: Any = dots.TorchMultiStageDotProductAttention
        self.refine: Any = importlib.import_module(
            "em_llm.attention.similarity_refinement"
        ).events_with_similarity_adjustment


def similarity_of(seed: int) -> Tensor:
    """Inner products of 48 keys that wander, so that neighbours are alike."""
    keys = torch.randn(48, 6, generator=torch.Generator().manual_seed(seed)).cumsum(0)
    return (keys @ keys.T).abs()


def boundaries_of(seed: int, tokens: int) -> list[int]:
    random = torch.Generator().manual_seed(seed + 100)
    return (torch.rand(tokens, generator=random) < 0.15).nonzero().squeeze(1).tolist()


def refinement(released: Released, seed: int, metric: str) -> dict[str, Any]:
    boundaries, similarity, least = boundaries_of(seed, 48), similarity_of(seed), 3
    # the released code's conductance takes 2-D input only where communities' sums are tensors; offset 0 as a tensor
    theirs = released.refine(
        [torch.tensor(b) for b in boundaries], similarity, metric, min_size=least, offset=torch.tensor(0)
    )
    ours = refine_boundaries(boundaries, similarity, metric, least)
    assert ours == [int(b) for b in theirs], (metric, seed, ours, theirs)
    return {"seed": seed, "metric": metric, "boundaries": ours}


def blocks(released: Released, seed: int) -> dict[str, Any]:
    """The released manager keeps the last block open, as tokens may follow; ours ends with the segment."""
    tokens, least, most = 150, 5, 16
    boundaries, sizes, window = boundaries_of(seed, tokens), list[int](), 4
    divide = torch.zeros(1, tokens + window)
    divide[0, boundaries] = 1
    manager = SimpleNamespace(
        **{name: torch.zeros(1, HEADS, tokens + window) for name in ("exc_repr_score", "global_remainder_repr_score")},
        _global_remainder_ed=0, _global_remainder_st=0, batch_size=1, num_heads=HEADS, kv_length=tokens + window,
        n_local=window, init_exc=True, min_block_size=least, max_block_size=most, global_block_divide=divide,
        allow_disk_offload=False, async_global_stream=False, length=0, local_k=torch.zeros(1, 1, 0, 1),
        global_remainder=[torch.zeros(1, 1, tokens + window, 1)] * 3, global_remainder_surprisal=torch.zeros(1, 9),
        _add_block=lambda row, first, last, load_to_disk: sizes.append(last - first),
    )  # fmt: skip
    released.manager.update_memory(manager, tokens + window, None)
    ours = event_sizes(boundaries, tokens, least, most)
    assert ours[: len(sizes)] == sizes and len(sizes) >= len(ours) - 1, (seed, ours, sizes)
    return {"seed": seed, "sizes": sizes}


def selection(released: Released, seed: int) -> dict[str, Any]:
    """Scores come from one vector a block, so that the manager's own sorting is used."""
    random = torch.Generator().manual_seed(seed)
    scores, sizes = torch.randn(30, generator=random), torch.randint(2, 9, (30,), generator=random)
    blocks = [SimpleNamespace(size=int(size)) for size in sizes]
    manager = SimpleNamespace(
        _global_remainder_ed=0, _global_remainder_st=0, n_local=8, global_context_cap=40, length=0,
        init_k=torch.zeros(1, 1, 0, 1),
        use_contiguity_buffer=False, global_length=[int(sizes.sum())], batch_size=1, num_heads=1, dim_head=1,
        random_topk_blocks=False, num_global_block=30, global_blocks=[blocks],
        block_repr_k=[SimpleNamespace(sort_by_similarity=lambda query: scores.argsort(descending=True).tolist())],
    )  # fmt: skip
    theirs = sorted(released.manager._calc_topk_blocks(manager, 1, torch.ones(1, 1, 1, 1))[0])
    ours = select_events(scores[None], sizes, 40, 0)[0].nonzero().squeeze(1).tolist()
    assert ours == theirs, (seed, ours, theirs)
    return {"seed": seed, "events": theirs}


def representative(released: Released) -> None:
    random = torch.Generator().manual_seed(0)
    keys, attended = torch.randn(KV_HEADS, 20, HEAD_DIM, generator=random), torch.rand(HEADS, 20, generator=random)
    manager = SimpleNamespace(num_heads=HEADS, num_heads_kv=KV_HEADS, repr_topk=4, dim_head=HEAD_DIM)
    manager._from_group_kv = lambda tensor: released.manager._from_group_kv(manager, tensor)
    theirs = [released.manager.get_block_k(manager, keys[:, low:high], attended[:, low:high])[0].mean(dim=-2)
              for low, high in ((0, 12), (12, 20))]  # fmt: skip
    ours = representative_keys(keys[None], attended[None], torch.tensor([12, 8]), 4)[0]
    torch.testing.assert_close(ours, torch.stack(theirs).flatten(1))
    print("representative keys: 2 blocks agree")


def attention(released: Released) -> None:
    """16 queries over a window of themselves and 24 remembered tokens in one softmax; attention that keys received."""
    random = torch.Generator().manual_seed(0)
    query, far_query = (torch.randn(1, HEADS, 16, HEAD_DIM, generator=random) for _ in range(2))
    keys, values = (torch.randn(1, KV_HEADS, 16, HEAD_DIM, generator=random) for _ in range(2))
    far_keys, far_values = (torch.randn(1, KV_HEADS, 24, HEAD_DIM, generator=random) for _ in range(2))
    theirs = released.attention(query.shape, query.dtype, query.device)
    theirs.append(query, keys, values, get_score=True, sliding_window=16)
    theirs.append(far_query, far_keys, far_values, end=True)
    output, received = theirs.get_result()
    causal = torch.ones(16, 16).tril().bool()[None, None]
    parts = [
        attend(query, keys, values, causal, HEAD_DIM**-0.5),
        attend(far_query, far_keys, far_values, None, HEAD_DIM**-0.5, weights=False),
    ]
    torch.testing.assert_close(merge_softmax(parts), output)
    assert parts[0].weights is not None
    ours = (parts[0].weights * torch.exp(parts[0].lse - total_lse(parts))[..., None]).sum(dim=2)
    torch.testing.assert_close(ours, received[0])
    print("attention over window and memory: output and attention received agree")


def commit_of(checkout: Path) -> str:
    run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=checkout)
    return run.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
