"""Draw the pictures of README and docs from the result files: python docs/build/pictures.py [NAME ...]

All of them lie in docs/pictures; no others are kept in the repository. `ltm bench report` makes those of docs/bench.md,
which `make docs` builds.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from recall_maps import heat_results, recall_heat
from results_page import places
from tables import DOCS, RESULTS

from ltm.bench.plots import styles
from ltm.bench.results import read_results
from ltm.plots import new_figure

FOLDER = DOCS / "pictures"
SHOWN = {"window": "window", "n-gram cache": "n-gram cache", "longmem": "LongMem", "full": "full context"}
"""Of the README's picture, with their names there."""
UNSEEN = "techdocs_other"
"""Projects of which no document was trained on."""


def main() -> None:
    known: dict[str, Callable[[], None]] = {
        "memory": memory,
        "recall": recall,
        "reading": reading,
        "decoding": decoding,
        "search-256k": lambda: search("search-256k", "bank_approximate_262144"),
        "search-1m": lambda: search("search-1m", "bank_approximate_1048576"),
        "retrieval": retrieval,
        "documents": documents,
    }
    for name in sys.argv[1:] or known:
        known[name]()


def load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def memory() -> None:
    """What memory gives: perplexity by place in documents, and keys found by the length of a text."""
    figure = new_figure(10, 3.9)
    left, right = figure.subplots(1, 2)
    look = styles([*SHOWN, "em_llm"])
    by_place = list(places(read_results(RESULTS / "bench"), [UNSEEN], tuple(SHOWN)))
    ends = [end for (_, _, end), _ in by_place]
    for label, name in SHOWN.items():
        change = [100 * math.expm1(loss[label] - loss["window"]) for _, loss in by_place]
        draw(left, ends, change, look[label], name)
    finish(left, "The further into a document, the more memory gives", "place in the document, to token", ends)
    left.set_ylabel("perplexity, % against the window's")
    found = heat_results(RESULTS)
    for label, name in {"em_llm": "EM-LLM, untrained", **SHOWN}.items():
        shares = [(length, share) for length, result in found.get(label, {}).items() for share in said(result, length)]
        if shares:
            draw(right, *zip(*sorted(shares), strict=True), look[label], name)  # type: ignore[misc]
    finish(right, "Keys that were read are said, however far back", "tokens read", [4096, 16384, 65536, 262144])
    right.set(ylabel="keys said, of five in the text, %", ylim=(-4, 106))
    figure.savefig(FOLDER / "memory.png", dpi=130)


def said(result: Any, length: int) -> Iterator[float]:
    """Percent of the keys that were said after so many tokens."""
    for row in result.rows:
        if row.metric == "accuracy" and row.condition == {"variant": "sentences", "length": length}:
            yield 100 * row.value


def draw(axes: Any, x: Iterable[float], y: Iterable[float], style: Any, name: str) -> None:
    axes.plot(list(x), list(y), color=style.colour, marker=style.marker, label=name)


def finish(axes: Any, title: str, what: str, ticks: list[int]) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set(xscale="log", xlabel=what)
    axes.set_xticks(ticks, [f"{tick // 1024}k" for tick in ticks])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def recall() -> None:
    """A map of keys by length and depth for each method."""
    heat = recall_heat(RESULTS)
    assert heat is not None
    (FOLDER / "recall.png").write_bytes(heat)


@contextmanager
def line_plot(name: str, title: str) -> Iterator[Any]:
    """Axes to draw labelled lines on, then written to docs/pictures/NAME.png."""
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    yield axes
    axes.set_title(title, loc="left", fontsize=11)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(FOLDER / f"{name}.png", dpi=110)


def reading() -> None:
    """Tokens a second between doublings of what was read."""
    figures: Mapping[str, list[list[float]]] = load("attention_reading")["seconds_by_length"]
    with line_plot("reading", "Reading with memory in attention, SmolLM2-135M") as axes:
        for (label, own), marker in zip(figures.items(), "*sodv^", strict=False):
            seconds = {0: 0.0} | {int(tokens): total for tokens, total in own}
            marks = [0, *(length for length in doublings(2048, max(seconds)) if length in seconds)]
            rates = [(b, (b - a) / (seconds[b] - seconds[a])) for a, b in pairwise(marks)]
            axes.plot(*zip(*rates, strict=True), marker=marker, markersize=5, label=label)
        axes.set(xscale="log", xlabel="tokens read", ylabel="tokens read a second, one thread")
        ticks = doublings(2048, int(max(own[-1][0] for own in figures.values())))
        axes.set_xticks(ticks, [f"{tick // 1024}k" for tick in ticks])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)


def doublings(first: int, last: int) -> list[int]:
    found = [first]
    while found[-1] * 2 <= last:
        found.append(found[-1] * 2)
    return found


def decoding() -> None:
    """Milliseconds a token against tokens before it."""
    with line_plot("decoding", "Decoding with memory in attention, SmolLM2-135M") as axes:
        for (label, own), marker in zip(load("attention_memory")["decode_ms"].items(), "sodv^", strict=False):
            points = sorted((int(length), value) for length, value in own.items())
            axes.plot(*zip(*points, strict=True), marker=marker, label=label)
        axes.set(xscale="log", yscale="log", xlabel="tokens before", ylabel="ms for one token, one thread")


def search(name: str, result: str) -> None:
    """Recall against time of each kind of index, means over heads."""
    file = load(result)
    rows: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in file["rows"]:
        rows.setdefault((row["choice"], row["setting"]), []).append((row["ms"], row["recall"]))
    choices = ("exact", "clusters", "clusters of keys", "ivf", "hnsw")
    with line_plot(name, f"Search among {file['chunks']:,} real keys of SmolLM2-135M") as axes:
        for choice, marker in zip(choices, "*os^D", strict=True):
            own = [some for (which, _), some in rows.items() if which == choice]
            points = [tuple(sum(column) / len(some) for column in zip(*some, strict=True)) for some in own]
            size = 12 if marker == "*" else 6
            if points:
                axes.plot(*zip(*points, strict=True), marker=marker, label=choice, markersize=size)
        axes.axhline(0.95, color="grey", linewidth=0.8, linestyle=":")
        axes.set(xscale="log", xlabel="ms for one token of one kv head, one thread", ylabel="recall@16")


def retrieval() -> None:
    """LongMem's searches for one token, by tokens remembered, beside the backbone's step."""
    result = load("bank_decode")
    rows, step = result["rows"], result["step_ms"]
    with line_plot("retrieval", "Retrieval while generating, SmolLM2-135M") as axes:
        for index, marker in (("exact", "s"), ("approximate", "o")):
            points = [(row["tokens"], row["all_ms"]) for row in rows if row["index"] == index]
            axes.plot(*zip(*points, strict=True), marker=marker, label=f"retrieval, {index}")
        axes.axhline(step, color="black", linewidth=1, label="the backbone's step")
        axes.axhline(step / 2, color="grey", linewidth=0.8, linestyle=":", label="half of it")
        axes.set(xscale="log", yscale="log", xlabel="tokens remembered", ylabel="ms for one token, one thread")


def documents() -> None:
    """Milliseconds for a document, and for an append, by how many there are."""
    result = load("bank_documents")
    figures, every = result["results"], result["config"]["every"]
    title = "A document, or an append, costs the same however many there are"
    with line_plot("documents", title) as axes:
        for name, color, marker in (("documents", "tab:blue", "o"), ("appends", "tab:orange", "s")):
            for kind, line, what in (("wall_ms", "-", "wall"), ("process_ms", ":", "process")):
                points = figures[name][kind]
                counts = [every * (index + 1) for index in range(len(points))]
                axes.plot(counts, points, line, color=color, marker=marker, markersize=3, label=f"{name}, {what}")
        axes.set_xlabel("documents, or appends, in the bank")
        axes.set_ylabel(f"milliseconds each, saved (mean of {every})")
        axes.set_ylim(bottom=0)


if __name__ == "__main__":
    main()
