"""ltm eval: methods measured on data, in one table."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltm.cli.declared import AsJson, BackboneName, Device, SideNetPath, new_app
from ltm.configs import DEFAULT_BACKBONE, range_problems, stride_problems
from ltm.console import ask_patience, make_progress, notice, print_json, print_table
from ltm.data.documents import iter_documents
from ltm.errors import ConfigError, LtmError
from ltm.methods import METHODS

if TYPE_CHECKING:
    from torch import Tensor

    from ltm.backbone import Backbone
    from ltm.methods import Reader
    from ltm.tasks.base import Record

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
    from ltm.data.tokens import token_ids

    loaded = load_backbone(backbone, device=device)
    documents = [(name, token_ids(loaded.tokenizer, text)[:max_tokens]) for name, text in texts]
    figures = _figures(*_measure(_ready(names, loaded, sidenet, window, stride), documents))
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
    from ltm.methods.opening import open_method

    return {
        name: open_method(
            name,
            backbone,
            sidenet if METHODS.card(name).needs_training else None,
            **METHODS[name].config_class.with_window(window, stride or window),
        )
        for name in names
    }


def _measure(
    methods: Mapping[str, Reader], documents: Sequence[tuple[str, Tensor]]
) -> tuple[dict[str, list[Record]], dict[str, float]]:
    """Each method's records and seconds. Raises LtmError where nothing could be scored."""
    from ltm.tasks.long_text import score_document

    total = sum(len(ids) for _, ids in documents)
    ends = [method.max_stream_tokens for method in methods.values() if method.max_stream_tokens is not None]
    records: dict[str, list[Record]] = {name: [] for name in methods}
    seconds = {}
    with make_progress() as progress:
        for name, method in methods.items():
            task, started = progress.add_task(name, total=total), time.perf_counter()
            for index, (document, ids) in enumerate(documents):  # two files may have one name
                advance = _advance(progress, task)
                records[name] += score_document(
                    method, kind=str(index), name=document, ids=ids, ends=ends, progress=advance
                )
            seconds[name] = time.perf_counter() - started
            progress.update(task, completed=total)
    if not any(record["tokens"] for own in records.values() for record in own):
        raise LtmError(f"{len(documents)} documents held no text of two tokens or more; there is nothing to score")
    return records, seconds


def _figures(records: Mapping[str, Sequence[Record]], seconds: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Each method's figures: of everything it scored, of each document, by place, and of what all of them scored.

    Like with like: a method whose positions end (`full`) scores a document only as far as they reach, so figures over
    everything that each method could score would compare different texts.
    """
    from ltm.tasks.long_text import LongText

    common = LongText.common(records)
    return {
        name: {
            **_totals(own),
            "seconds": seconds[name],
            "documents": [{"name": record["document"], **_totals([record])} for record in own],
            "by_position": _by_position(own),
            "common": _totals(common[name]),
        }
        for name, own in records.items()
    }


def _totals(records: Sequence[Record]) -> dict[str, Any]:
    """JSON has no NaN: a perplexity of no tokens is None."""
    tokens, nats = sum(record["tokens"] for record in records), sum(record["nats"] for record in records)
    return {"tokens": tokens, "nats": nats, "perplexity": math.exp(min(nats / tokens, 700.0)) if tokens else None}


def _by_position(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Perplexity by place, all documents together; "to" is the last place of a range."""
    from ltm.tasks.long_text import perplexity_rows

    rows = perplexity_rows([{**record, "kind": "all"} for record in records])
    return [
        {
            "from": row.extra["first_position"],
            "to": row.condition["position"] - 1,
            "tokens": row.extra["tokens"],
            "perplexity": row.value,
        }
        for row in rows
        if "position" in row.condition
    ]


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
