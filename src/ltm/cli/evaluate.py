"""ltm eval: methods measured on data, in one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from ltm.backbone import load_backbone
from ltm.configs import range_problems, stride_problems
from ltm.console import ask_patience, make_progress, notice, print_json, print_table
from ltm.documents import iter_documents
from ltm.errors import ConfigError, LtmError
from ltm.methods import Reader, method_class
from ltm.session import open_method
from ltm.tasks.perplexity import PerplexityResult, compare, perplexity
from ltm.tokens import token_ids

DEFAULT_WINDOW = 1024


def run_perplexity(
    data: Sequence[Path],
    methods: str,
    backbone: str,
    sidenet: Path | None,
    window: int | None,
    stride: int | None,
    limits: dict[str, int | None],
    by_position: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Every method on the same documents; the table gives each over the tokens that all of them scored."""
    names = _names(methods)
    _check_limits(limits)
    if (window or stride) and not any(method_class(name).config_class.with_window(1) for name in names):
        raise LtmError(f"none of {', '.join(names)} has a window; leave --window and --stride out")
    window = DEFAULT_WINDOW if window is None else window
    if problems := range_problems({"window": window}) + stride_problems(window, stride):
        raise ConfigError(problems)
    if sidenet is not None and not any(method_class(name).card.needs_training for name in names):
        raise LtmError(f"none of {', '.join(names)} is trained, so --sidenet has no effect; leave it out")
    documents = islice(iter_documents(data), limits["max_documents"])
    texts = [(document.name, document.text) for document in documents]
    ask_patience(f"loading {backbone}")
    loaded = load_backbone(backbone, device=device)
    ids = [(name, token_ids(loaded.tokenizer, text)[: limits["max_tokens"]]) for name, text in texts]
    options = {name: method_class(name).config_class.with_window(window, stride or window) for name in names}
    weights = {name: sidenet if method_class(name).card.needs_training else None for name in names}
    ready = {name: open_method(name, loaded, weights[name], **options[name]) for name in names}
    results = _measure(ready, ids)
    figures = compare(results)
    if as_json:
        settings = {
            "window": window,
            "stride": stride,
            **limits,
            "backbone": backbone,
            "data": [str(path) for path in data],
        }
        print_json({"settings": settings, "methods": figures})
        return
    _print_table(figures, backbone, len(ids))
    if by_position:
        _print_positions(figures)


def _names(methods: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in methods.split(",") if name.strip()))
    if not names:
        raise LtmError("no method given; name some that `ltm methods` lists: --method window,longmem")
    for name in names:
        method_class(name)
    return names


def _check_limits(limits: dict[str, int | None]) -> None:
    least = {"max_tokens": 2, "max_documents": 1}
    for name, value in limits.items():
        if value is not None and value < least.get(name, 1):
            raise LtmError(f"{name}={value}; use {least.get(name, 1)} or more")


def _measure(methods: dict[str, Reader], documents: Sequence[tuple[str, Tensor]]) -> dict[str, PerplexityResult]:
    results, total = {}, sum(len(ids) for _, ids in documents)
    with make_progress() as progress:
        for name, method in methods.items():
            task = progress.add_task(name, total=total)
            results[name] = perplexity(method, documents, progress=_advance(progress, task))
            progress.update(task, completed=total)
    return results


def _advance(progress: Any, task: Any) -> Callable[[int], None]:
    return lambda tokens: progress.advance(task, tokens)


def _print_table(figures: dict[str, dict[str, Any]], backbone: str, num_documents: int) -> None:
    """One line a method; where some scored more than others, both figures."""
    common = next(iter(figures.values()))["common"]["tokens"]
    uneven = any(figure["tokens"] != common for figure in figures.values())
    columns = ["method", "tokens", "perplexity", "tokens/s"]
    rows = []
    for name, figure in figures.items():
        shared = figure["common"]["perplexity"]
        row = [
            name,
            f"{common:,}",
            "-" if shared is None else f"{shared:.3f}",
            f"{figure['tokens'] / figure['seconds']:,.0f}",
        ]
        rows.append(row + ([f"{figure['tokens']:,}", f"{figure['perplexity']:.3f}"] if uneven else []))
    columns += ["all tokens it fits", "perplexity of these"] if uneven else []
    print_table(f"Perplexity of {backbone} on {num_documents} documents", columns, rows)
    if uneven:
        notice(
            "tokens and perplexity: the first tokens of each document, which every method could score",
            style="dim",
        )


def _print_positions(figures: dict[str, dict[str, Any]]) -> None:
    ranges = sorted({(row["from"], row["to"]) for figure in figures.values() for row in figure["by_position"]})
    rows = []
    for low, high in ranges:
        found = [[r for r in f["by_position"] if (r["from"], r["to"]) == (low, high)] for f in figures.values()]
        rows.append([f"{low:,}-{high:,}", *(f"{r[0]['perplexity']:.3f}" if r else "-" for r in found)])
    print_table("by place in the document", ["tokens", *figures], rows)
