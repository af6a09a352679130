"""ltm eval: methods measured on data, in one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltm.cli.declared import AsJson, BackboneName, Device, SideNetPath, new_app
from ltm.configs import DEFAULT_BACKBONE, range_problems, stride_problems
from ltm.console import ask_patience, make_progress, notice, print_json, print_table
from ltm.documents import iter_documents
from ltm.errors import ConfigError, LtmError
from ltm.methods import METHODS

if TYPE_CHECKING:
    from torch import Tensor

    from ltm.backbone import Backbone
    from ltm.methods import Reader
    from ltm.tasks.perplexity import PerplexityResult

DEFAULT_WINDOW = 1024

app = new_app(
    help="Measure methods.",
    epilog="Try: ltm eval perplexity --method window,longmem --data moby.txt",
    no_args_is_help=True,
)


@app.callback()
def measure() -> None:
    pass


@app.command("perplexity", epilog="Try: ltm eval perplexity --method window,longmem --data moby.txt")
def eval_perplexity(
    data: Annotated[
        list[Path],
        typer.Option(
            "--data", help="A file or folder of .txt, .md, .html, .jsonl, .jsonl.gz (field text), or -; repeatable."
        ),
    ],
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[DATA]...", help="More data, so that --data *.txt works.")
    ] = None,
    methods: Annotated[
        str, typer.Option("--method", help="Names that `ltm methods` lists, with commas.")
    ] = "window,full,longmem",
    backbone: BackboneName = DEFAULT_BACKBONE,
    sidenet: SideNetPath = None,
    window: Annotated[
        int | None, typer.Option(help="Local window in tokens, the same for every method that has one; default: 1024.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Tokens that leave a full window; default: all, as in the paper.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="Most tokens of each document; default: all.")
    ] = None,
    max_documents: Annotated[
        int | None, typer.Option("--max-documents", help="First documents only; default: all.")
    ] = None,
    by_position: Annotated[bool, typer.Option("--by-position", help="Also by place in the document.")] = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Perplexity on long texts, for several methods in one table."""
    data, limits = [*data, *(more or [])], {"max_tokens": max_tokens, "max_documents": max_documents}
    names = _names(methods)
    _check(names, limits, window, stride, sidenet)
    window = DEFAULT_WINDOW if window is None else window
    texts = [(document.name, document.text) for document in islice(iter_documents(data), max_documents)]
    ask_patience(f"loading {backbone}")
    from ltm.backbone import load_backbone  # only now: what cannot be read is told at once
    from ltm.tasks.perplexity import compare
    from ltm.tokens import token_ids

    loaded = load_backbone(backbone, device=device)
    documents = [(name, token_ids(loaded.tokenizer, text)[:max_tokens]) for name, text in texts]
    figures = compare(_measure(_ready(names, loaded, sidenet, window, stride), documents))
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
    _print_table(figures, backbone, len(documents))
    if by_position:
        _print_positions(figures)


def _names(methods: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in methods.split(",") if name.strip()))
    if not names:
        raise LtmError("no method given; name some that `ltm methods` lists: --method window,longmem")
    for name in names:
        METHODS.card(name)
    return names


def _check(
    names: Sequence[str],
    limits: dict[str, int | None],
    window: int | None,
    stride: int | None,
    sidenet: Path | None,
) -> None:
    """Refuse what cannot be, or would have no effect, before anything is loaded."""
    for name, least in {"max_tokens": 2, "max_documents": 1}.items():
        if (value := limits[name]) is not None and value < least:
            raise LtmError(f"{name}={value}; use {least} or more")
    listed = ", ".join(names)
    if (window or stride) and not any(METHODS[name].config_class.with_window(1) for name in names):
        raise LtmError(f"none of {listed} has a window; leave --window and --stride out")
    window = DEFAULT_WINDOW if window is None else window
    if problems := range_problems({"window": window}) + stride_problems(window, stride):
        raise ConfigError(problems)
    if sidenet is not None and not any(METHODS.card(name).needs_training for name in names):
        raise LtmError(f"none of {listed} is trained, so --sidenet has no effect; leave it out")


def _ready(
    names: Sequence[str], backbone: Backbone, sidenet: Path | None, window: int, stride: int | None
) -> dict[str, Reader]:
    """Every method with the same window, all of which leaves it where no stride is asked for."""
    from ltm.session import open_method

    return {
        name: open_method(
            name,
            backbone,
            sidenet if METHODS.card(name).needs_training else None,
            **METHODS[name].config_class.with_window(window, stride or window),
        )
        for name in names
    }


def _measure(methods: dict[str, Reader], documents: Sequence[tuple[str, Tensor]]) -> dict[str, PerplexityResult]:
    from ltm.tasks.perplexity import perplexity

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
