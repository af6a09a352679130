"""Write docs/methods.md: every registered method beside what was measured of it: python docs/build/methods_table.py

Names, papers and what differs come from the registry; figures from the result files under benchmarks/results, those of
`ltm bench run` in its folder bench. What no file holds is "not measured". A file of a speed benchmark takes part in the
column of decode cost where it has a list `decode_cost` of {method, label, tokens, seconds, full_seconds}: a generated
token after so many tokens, and full attention's in the same run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from commands import commands
from recall_maps import FOLDERS, bench_results, heat_results, recall_table
from results_page import KINDS, TAKEN_OUT
from tables import DOCS, RESULTS, grid

from ltm.bench.results import Result
from ltm.methods import METHODS

PAGE = DOCS / "methods.md"
MISSING = "not measured"

START = (
    "# Methods\n\nWritten by `python docs/build/methods_table.py` from the registry and the result files, not by hand. "
    "`ltm methods --json` prints each method's options."
)
COLUMNS = (
    "- **Bytes a token**: what a remembered token takes, in the dtype of the run; – for a window, which keeps nothing "
    "beyond itself.",
    "- **Decode cost**: seconds of a generated token after a context of so many tokens, as a share of full attention's "
    "in the same run.",
    "- **Recall**: keys planted in a text of so many tokens, read and asked for: written out / likeliest of ten "
    "(chance 10%).",
    "- **Perplexity**: of test documents, {kinds}, scored to {tokens} tokens of each in separate windows; where half "
    "of the window is kept, of fewer documents: the last table has what to compare it with.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args()
    arguments.out.write_text(page(arguments.results))


def page(folder: Path) -> str:
    """The whole page from a folder of result files."""
    results = [result for name in ("bench", *FOLDERS) for result in bench_results(folder / name)]
    apart = bench_results(folder / "untrained")
    costs = decode_costs(folder)
    rows, notes = [], []
    for name in sorted(METHODS):
        card, own = METHODS.card(name), of_method(results, name)
        row = [f"`{name}`", card.paper or "baseline", "yes" if card.needs_training else "no", per_token(own)]
        figure = perplexity(own)
        if figure == MISSING and (other := perplexity(of_method(apart, name))) != MISSING:
            figure = f"half of the window kept: {other}"
        rows.append([*row, decode_cost(costs, name), recall(results, name), figure])
        notes.append(
            f"**`{name}`**: {sentence(card.claim)}"
            + (f" What differs: {sentence(card.differs)}" if card.differs else "")
        )
    header = ["method", "paper", "needs training", "bytes a token", "decode cost", "recall", "perplexity"]
    meaning = "\n".join(COLUMNS).format(kinds=" / ".join(KINDS), tokens=scored_tokens(results))
    parts = [START, grid(header, rows), meaning, *pictures(folder), *(half_window(apart) if apart else []), *notes]
    parts += ["## What a deleted document leaves behind", *deletions()]
    parts += ["## Measured with", *made_by([*results, *apart], folder)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def sentence(text: str) -> str:
    return f"{text.rstrip('.')}."


def deletions() -> list[str]:
    """Of the methods that keep banks."""
    cards = {name: method.card for name, method in sorted(METHODS.items()) if method.keeps_bank}
    clean = ", ".join(f"`{name}`" for name, card in cards.items() if not card.deletion)
    traces = {name: card.deletion for name, card in cards.items() if card.deletion}
    return [
        "`ltm bank delete` takes a document's own entries, text and name out of memory and files. What it pushed out "
        "of a full memory does not come back, and the gap in the numbers of the chunks tells how many it had.",
        f"{clean}: nothing else. No other document's entries were made with it in sight.",
        *(f"`{name}`: {trace}. `ltm bank rebuild` reads what is left anew." for name, trace in traces.items()),
    ]


def pictures(folder: Path) -> list[str]:
    """Recall by length and depth, and what reading and decoding cost, as far as there are figures."""
    found = []
    if heat_results(folder):
        found += [
            "## Recall, reading, decoding",
            "![Five keys in one text, by length and depth](pictures/recall.png)",
            "Share of five keys, each at the end of a sentence of its own at one of five depths of a text, that a "
            "method writes out after the sentence's beginning. Three readings a cell where there are three, else one.",
            recall_table(folder),
        ]
    for name, what in (("attention_reading", "reading"), ("attention_memory", "decoding")):
        if (folder / f"{name}.json").exists():
            found.append(f"![{what.capitalize()}](pictures/{what}.png)")
    return found


def half_window(results: Sequence[Result]) -> list[str]:
    """Perplexity of methods without training, on the same documents with the same window."""
    tasks = [result for result in results if result.task == "long_text"]
    config = tasks[0].facts["setup"]["task"]["config"]
    shared = [f"`{result.label}`" for result in tasks]
    values = {result.label: perplexity({"long_text": result}).split(" / ") for result in tasks}
    rows = [[kind, *(own[place] for own in values.values())] for place, kind in enumerate(KINDS)]
    rows = [row for row in rows if set(row[1:]) != {"–"}]
    return [
        "## Without training, where half of a full window is kept",
        f"Perplexity of {config['documents']} test document a kind to {config['max_tokens']:,} tokens; a window of "
        "1,024, 512 of which leave it when it is full, for every method that has one; "
        "`tova` keeps 1,024 tokens of each head.",
        grid(["kind", *shared], rows),
    ]


def of_method(results: Iterable[Result], name: str) -> dict[str, Result]:
    """For each task the result that stands for a method: the one that is called as the method is, else the first."""
    found: dict[str, Result] = {}
    for result in results:
        about = result.facts["setup"]["method"]
        if about["name"] == name and (result.task not in found or about["label"] == name):
            found[result.task] = result
    return found


def per_token(own: dict[str, Result]) -> str:
    known = [result.facts["bytes_per_token"] for result in own.values()]
    sizes = [size for size in known if size is not None]
    if sizes:
        return f"{sizes[0]:,.0f}"
    return "–" if known else MISSING


def perplexity(own: dict[str, Result]) -> str:
    """Of each kind of text over all documents; none of a kind whose documents were taken out since."""
    if "long_text" not in own:
        return MISSING
    gone = {record["kind"] for record in own["long_text"].records if record["id"] in TAKEN_OUT}
    rows = [r for r in own["long_text"].rows if r.metric == "perplexity" and set(r.condition) == {"kind"}]
    by_kind = {row.condition["kind"]: f"{row.value:.2f}" for row in rows if row.condition["kind"] not in gone}
    return " / ".join(by_kind.get(kind, "–") for kind in KINDS) if by_kind else MISSING


def recall(results: Iterable[Result], name: str) -> str:
    """By length, of five keys in sentences of their own in one text, by the method as it is by default."""
    own = [r for r in results if r.task == "recall" and r.facts["setup"]["method"]["name"] == name]
    own = [result for result in own if result.label == name] or own[:1]
    rows = [row for result in own for row in result.rows if set(row.condition) == {"variant", "length"}]
    rows = [row for row in rows if row.condition["variant"] == "sentences"]
    parts = []
    for length in sorted({row.condition["length"] for row in rows}):
        shares = [mean(rows, length, metric) for metric in ("accuracy", "choice_accuracy")]
        parts.append(f"{length:,}: {shares[0]:.0%} / {shares[1]:.0%}")
    return "; ".join(parts) or MISSING


def mean(rows: Sequence[Any], length: int, metric: str) -> float:
    """Over the questions of all variants."""
    chosen = [row for row in rows if row.condition["length"] == length and row.metric == metric]
    return sum(row.value * row.count for row in chosen) / sum(row.count for row in chosen)


def decode_costs(folder: Path) -> list[dict[str, Any]]:
    """The entries of all files that have some."""
    entries = []
    for file in sorted(folder.glob("*.json")):
        result = json.loads(file.read_text())
        entries += result.get("decode_cost", [])
        if file.stem == "longmem_context":
            entries += _of_longmem_context(result)
    return entries


def _of_longmem_context(result: dict[str, Any]) -> list[dict[str, Any]]:
    speeds = {
        int(length): [found[side]["generate_tokens_per_s"] for side in ("longmem", "full")]
        for length, found in result["results"].items()
    }
    return [
        {"method": "longmem", "label": "longmem", "tokens": length, "seconds": 1 / own, "full_seconds": 1 / full}
        for length, (own, full) in speeds.items()
    ]


def decode_cost(entries: list[dict[str, Any]], name: str) -> str:
    """Of the method as it is by default, by length; other settings of it with their labels."""
    own = sorted(
        (e for e in entries if e["method"] == name), key=lambda e: (e["label"] != name, e["label"], e["tokens"])
    )
    parts = [
        f"{'' if e['label'] == name else e['label'] + ', '}{e['tokens']:,}: {e['seconds'] / e['full_seconds']:.2f} x"
        for e in own
    ]
    if name == "full":
        return "1 x"
    return "; ".join(parts) or MISSING


def scored_tokens(results: Iterable[Result]) -> str:
    """The most that was scored of a document."""
    limits = {r.facts["setup"]["task"]["config"].get("max_tokens") for r in results if r.task == "long_text"}
    return " or ".join("all" if limit is None else f"{limit:,}" for limit in sorted(limits, key=str)) or "all"


def made_by(results: Iterable[Result], folder: Path) -> list[str]:
    """Every command that a figure came from, once."""
    own = commands([result for result in results if result.task in ("long_text", "recall")])
    for file in sorted(folder.glob("*.json")):
        result = json.loads(file.read_text())
        own += [result["command"]] if "decode_cost" in result or file.stem == "longmem_context" else []
    return [f"`{line}`" for line in dict.fromkeys(own)]


if __name__ == "__main__":
    main()
