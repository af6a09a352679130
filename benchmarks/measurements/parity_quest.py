"""Quest beside the released code (github.com/mit-han-lab/Quest): same tensors, same tokens read, same output.

    git clone https://github.com/mit-han-lab/Quest && python benchmarks/measurements/parity_quest.py Quest

Two parts of the checkout run on a CPU: the attention of its evaluation code (evaluation/quest_attention.py, with which
the paper's tables were made), and what its own tests hold the kernels to (quest/tests/test_approx_attention.py). They
are taken from the checkout as they stand, without its dependencies. The first is called on an attention module whose
projections and rotation are the identity, so that it gets our tensors; both say which tokens they read by the softmax
that they leave. Random tensors in float32. Prints a line a case, exits with 1 where one differs. --write FILE keeps
small cases with their results, which tests/methods/attention/test_quest_official.py reads.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import torch
from common import notice, print_table
from safetensors.torch import save_file
from torch import Tensor, nn

from ltm.attention import LocalView
from ltm.methods.attention.quest import QuestConfig
from ltm.methods.attention.quest.reader import PageReader
from ltm.streams.pages import Columns, PagedCache, PagedLayer

EVALUATION, KERNELS = "evaluation/quest_attention.py", "quest/tests/test_approx_attention.py"


class Case(NamedTuple):
    """One token after a context. current_page says whose rule is meant: 'ranked' evaluation code, 'kept' kernels."""

    current_page: str
    length: int
    heads: int
    kv_heads: int
    page_size: int
    budget: int
    head_dim: int = 16

    @property
    def name(self) -> str:
        return "-".join(map(str, self))


CASES = [
    *(
        Case("ranked", length, heads, kv_heads, page_size, budget)
        for length in (17, 49, 64, 113, 482, 1541)
        for heads, kv_heads in ((4, 4), (9, 3))
        for page_size, budget in ((16, 16), (16, 128), (8, 96))
    ),
    *(Case("kept", length, 4, 4, 16, budget) for length in (27, 61, 113, 482, 1541) for budget in (64, 112, 496)),
]
SMALL = [
    Case("ranked", 61, 4, 2, 8, 24, 8),
    Case("ranked", 64, 4, 2, 8, 32, 8),
    Case("kept", 61, 2, 2, 8, 24, 8),
    Case("kept", 65, 2, 2, 8, 32, 8),
]


class Found(NamedTuple):
    """read: which tokens each head attended to, bool [heads, tokens]; output [heads, head_dim]."""

    read: Tensor
    output: Tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="a checkout of mit-han-lab/Quest")
    parser.add_argument("--write", type=Path, default=None, help="keep small cases in this file")
    arguments = parser.parse_args()
    evaluation, kernels = load_evaluation(arguments.checkout), load_kernel_reference(arguments.checkout)
    rows, wrong = [], 0
    for index, case in enumerate(CASES):
        tensors = make_tensors(case, index)
        theirs = (
            evaluation_code(evaluation, case, *tensors) if case.current_page == "ranked" else kernels(case, *tensors)
        )
        mine = ours(case, *tensors)
        same, error = bool(torch.equal(theirs.read, mine.read)), float((theirs.output - mine.output).abs().max())
        wrong += not same or error > 1e-5
        share = f"{theirs.read.float().mean():.0%}"
        rows.append([case.name, share, "same" if same else "OTHERS", f"{error:.1e}"])
    print_table(["rule, length, heads, kv heads, page, budget, width", "read", "tokens", "largest difference"], rows)
    notice(f"{len(CASES) - wrong} of {len(CASES)} cases agree")
    if arguments.write is not None:
        write_cases(arguments.write, evaluation, kernels, revision(arguments.checkout))
    sys.exit(1 if wrong else 0)


def make_tensors(case: Case, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """query [heads, head_dim], keys and values [kv_heads, length, head_dim]; a few keys stand out, as in a model."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(case.heads, case.head_dim, generator=generator)
    keys, values = (torch.randn(case.kv_heads, case.length, case.head_dim, generator=generator) for _ in range(2))
    keys *= 1 + 2 * (torch.rand(case.kv_heads, case.length, 1, generator=generator) > 0.9)
    return query, keys, values


def ours(case: Case, query: Tensor, keys: Tensor, values: Tensor) -> Found:
    """By the plugin that runs in a model, both ways of it."""
    budget = case.budget
    if case.current_page == "ranked":  # the evaluation code cuts the budget to the context, and then to whole pages: a
        budget = min(budget, case.length)  # context that fits but does not fill its last page loses one; a Quest's not
    config = QuestConfig(case.page_size, budget, dense_layers=0, current_page=case.current_page)  # type: ignore[arg-type]
    layer, columns = PagedLayer(case.page_size), Columns(torch.ones(1, case.length, dtype=torch.bool))
    layer.update(keys[None], values[None])
    cache = PagedCache(case.page_size)
    cache.caches[0].layers = [layer]
    module = SimpleNamespace(is_causal=True, num_key_value_groups=case.heads // case.kv_heads)
    scaling = case.head_dim**-0.5
    local = LocalView(module, query[None, :, None], layer.keys, layer.values, None, scaling, 0.0, None, {})  # type: ignore[arg-type]
    reader = PageReader(config, [0], cache, columns, 1)
    fetched = reader.attend_local(0, local)
    if fetched is None:  # everything fits
        return Found(torch.ones(case.heads, case.length, dtype=torch.bool), local.output()[0, :, 0])
    read = reader.mask(local, layer, local.explicit_mask(), slice(None))
    return Found(read[0, :, 0], fetched[0, :, 0])


# the released code


def load_evaluation(checkout: Path) -> ModuleType:
    """The evaluation module; its rotation, written for an older transformers, leaves our tensors as they are."""
    spec = importlib.util.spec_from_file_location("quest_attention", existing(checkout / EVALUATION))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.apply_rotary_pos_emb = lambda query, key, *_: (query, key)  # type: ignore[attr-defined]
    return module


def evaluation_code(module: ModuleType, case: Case, query: Tensor, keys: Tensor, values: Tensor) -> Found:
    """Its `forward` for one token, with all keys but the last in the cache."""
    width = case.head_dim
    attention = SimpleNamespace(
        layer_id=2,
        num_heads=case.heads,
        num_key_value_heads=case.kv_heads,
        num_key_value_groups=case.heads // case.kv_heads,
        head_dim=width,
        hidden_size=case.heads * width,
        token_budget=case.budget,
        chunk_size=case.page_size,
        q_proj=lambda hidden: hidden,
        k_proj=lambda hidden: keys[:, -1].reshape(1, 1, -1),
        v_proj=lambda hidden: values[:, -1].reshape(1, 1, -1),
        o_proj=lambda output: output,
        rotary_emb=lambda states, positions: (None, None),
    )
    masks, find = [], module.local_heavy_hitter_mask
    module.local_heavy_hitter_mask = lambda *args: masks.append(find(*args)) or masks[-1]  # type: ignore[attr-defined]
    try:
        output, _, _ = module.forward(
            attention,
            query.reshape(1, 1, -1),
            position_ids=torch.tensor([[case.length - 1]]),
            past_key_value=(keys[None, :, :-1], values[None, :, :-1]),
            use_cache=True,
        )
    finally:
        module.local_heavy_hitter_mask = find  # type: ignore[attr-defined]
    return Found(masks[0][0, :, 0], output.view(case.heads, width))


def load_kernel_reference(checkout: Path):  # noqa: ANN201
    """Its reference of the kernels: one function of a test module whose imports need the compiled kernels."""
    tree = ast.parse(existing(checkout / KERNELS).read_text())
    name = "_ref_self_approx_attention"
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    names = {"torch": torch, "nn": nn, "math": math}
    exec(compile(tree, KERNELS, "exec"), names)

    def run(case: Case, query: Tensor, keys: Tensor, values: Tensor) -> Found:
        by_token = [states.transpose(0, 1).contiguous() for states in (keys, values)]  # [tokens, heads, head_dim]
        output, pages = names[name](query[None], *by_token, case.page_size, case.budget // case.page_size)  # type: ignore[operator]
        read = torch.ones(case.heads, case.length, dtype=torch.bool)
        if pages is not None:  # without the page of the last token, which is always read
            last = torch.full((case.heads, 1), (case.length - 1) // case.page_size)
            chosen = torch.cat((pages.view(case.heads, -1).long(), last), dim=1)
            read = (torch.arange(case.length) // case.page_size == chosen[..., None]).any(dim=1)
        return Found(read, output[0])

    return run


def existing(file: Path) -> Path:
    if not file.exists():
        sys.exit(f"{file} is not there; give a checkout of github.com/mit-han-lab/Quest")
    return file


def revision(checkout: Path) -> str:
    run = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True)
    return run.stdout.strip() or "unknown"


def write_cases(file: Path, evaluation: ModuleType, kernels, commit: str) -> None:  # noqa: ANN001
    tensors = {}
    for index, case in enumerate(SMALL):
        made = make_tensors(case, 1000 + index)
        found = evaluation_code(evaluation, case, *made) if case.current_page == "ranked" else kernels(case, *made)
        named = zip(("query", "keys", "values", "read", "output"), (*made, *found), strict=True)
        tensors |= {f"{case.name}/{name}": tensor.contiguous() for name, tensor in named}
    made_by = f"python benchmarks/measurements/parity_quest.py CHECKOUT --write FILE, mit-han-lab/Quest at {commit}"
    save_file(tensors, file, metadata={"made_by": made_by, "torch": torch.__version__})
    notice(f"wrote {file}")


if __name__ == "__main__":
    main()
