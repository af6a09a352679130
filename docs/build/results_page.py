"""Fill docs/results.md with figures from the result files: python docs/build/results_page.py

The page's own words stay; what stands between `<!-- measured: NAME -->` and `<!-- end -->` is replaced by that table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import fmean

import numpy as np
from commands import commands
from recall_maps import recall_table
from tables import DOCS, RESULTS, fill, grid

from ltm.bank import EVICTIONS
from ltm.bench.results import Result, read_results, uneven_windows
from ltm.tasks.base import Row
from ltm.tasks.intervals import t_interval, wilson_interval

PAGE = DOCS / "results.md"
KINDS = ("books", "techdocs", "latex_math", "techdocs_other", "latex_other")
TAKEN_OUT = {"techdocs/pep-0344"}
"""Test documents of runs before 2026-11-27 that repeat training documents; they are in no table."""
SEED_KINDS = ("books", "latex_math")
"""Of longmem_seeds.json, whose figures are of several documents together, one of them taken out."""
WINDOWS = (256, 512, 2048)
"""Beside 1,024, the window of all other tables."""
OTHERS = (
    *("whole-context", "chunks", "beyond", "beyond-kinds", "half-window", "eviction", "wikitext"),
    *("suffix-lengths", "recall-pairs", "recall-facts", "earlier"),
)
BESIDE = ("memory off", "attention only", "n-gram cache")
"""What is measured beside LongMem: the same SideNet with memory off, without its pointer, and with counts instead."""
LABELS = ("window", *BESIDE, "longmem", "full")
EARLIER_LABELS = ("window", "no memory", *BESIDE, "longmem", "full")
"""The same where LongMem stands beside a SideNet that was trained as long without memory."""
EVICTED = ("everything", *EVICTIONS)
RESAMPLES = 2000
COMPARED_WITH = ("window", "memory off", "n-gram cache", "full")
CHANGES = ("LongMem against window", "against memory off", "against n-gram cache")
SHARES = "of memory's gain: attention only, n-gram cache"
COMPARED = (
    *(*EARLIER_LABELS, "LongMem against window", "against n-gram cache"),
    *("memory's own share", "the bound", "share of the bound", SHARES),
)
"""The columns of `_comparison`: the earlier labels' perplexities, then what they show."""


def main() -> None:
    results = read_results(RESULTS / "bench")
    folders = [RESULTS / name for name in (*(f"window-{size}" for size in WINDOWS), *OTHERS)]
    apart = {folder.name: read_results(folder) for folder in folders if folder.is_dir()}
    at_1024 = [*apart["earlier"], *results]  # the earlier runs, and of the main ones what those lack
    tables: dict[str, Callable[[], str]] = {
        "perplexity": lambda: perplexity(results, KINDS),
        "overlap": overlap,
        "wikitext": lambda: earlier_perplexity(apart["wikitext"], ("wikitext2",)),
        "positions": lambda: positions(results),
        "baselines": lambda: baselines(at_1024),
        "windows": lambda: windows(at_1024, apart),
        "adapted bound": lambda: adapted_bound(at_1024, apart["whole-context"]),
        "half window": lambda: half_window(at_1024, apart["half-window"]),
        "chunks": lambda: chunks(at_1024, apart["chunks"]),
        "eviction": lambda: eviction(apart["eviction"]),
        "beyond": lambda: beyond(apart["beyond"]),
        "beyond kinds": lambda: beyond_kinds(apart["beyond-kinds"]),
        "reading": lambda: plain(results, "reading", ("exact_match", "f1"), ("shots", "remembered")),
        "in_context": lambda: in_context(results),
        "suffix": lambda: plain(results, "suffix", ("accuracy",), ("length",)),
        "suffix lengths": lambda: plain(apart["suffix-lengths"], "suffix", ("accuracy",), ("length",)),
        "recall sentences": lambda: recall_table(RESULTS),
        "recall": lambda: plain(results, "recall", ("accuracy",), ("variant", "length")),
        "recall choice": lambda: plain(results, "recall", ("choice_accuracy",), ("variant", "length")),
        "recall pairs": lambda: plain(
            apart["recall-pairs"], "recall", ("accuracy", "choice_accuracy"), ("variant", "length")
        ),
        "recall facts": lambda: recall_facts(apart["recall-facts"]),
        "book questions": book_questions,
        "context": context,
        "seeds": seeds,
        "cost": cost,
    }
    for compared in (results, *apart.values()):
        check_windows(compared)
    fill(PAGE, tables)


def of(results: list[Result], task: str, label: str) -> Result | None:
    found = [r for r in results if r.task == task and r.label == label and not r.failed]
    return found[0] if found else None


def command(results: list[Result], task: str, labels: Iterable[str]) -> str:
    found = [result for label in labels if (result := of(results, task, label))]
    return "\n".join(f"`{line}`" for line in commands(found))


def records(results: list[Result], label: str) -> dict[str, dict]:
    found = of(results, "long_text", label)
    return {} if found is None else {r["id"]: r for r in found.records if r["id"] not in TAKEN_OUT}


def kinds_of(own: dict[str, dict]) -> list[str]:
    """The kinds of which there are records."""
    found = {record["kind"] for record in own.values()}
    return [kind for kind in KINDS if kind in found]


def check_windows(results: list[Result]) -> None:
    """Fail where full windows keep more of the text for some methods than for others: nothing follows from that."""
    kept = uneven_windows(result for result in results if result.task == "long_text")
    if kept:
        raise SystemExit(f"other strides, so no comparison: {kept} tokens kept")


def nats(own: dict[str, dict], kind: str) -> float:
    """Nats a token over all documents of a kind."""
    chosen = [record for record in own.values() if record["kind"] == kind]
    return sum(r["nats"] for r in chosen) / sum(r["tokens"] for r in chosen)


def over(results: list[Result], labels: Iterable[str], documents: dict[str, dict]) -> dict[str, dict[str, dict]]:
    """By label the records of these documents, of the labels that scored all of them, and the same tokens of each."""
    own = {label: records(results, label) for label in labels}
    own = {label: _only(found, documents) for label, found in own.items() if documents.keys() <= found.keys()}
    _check_tokens({"": documents, **own})
    return own


def losses(results: list[Result], labels: Iterable[str], documents: dict[str, dict], kind: str) -> dict[str, float]:
    """Nats a token over the documents of a kind, of the labels that scored all of them."""
    return {label: nats(own, kind) for label, own in over(results, labels, documents).items()}


def _shown(loss: Mapping[str, float], labels: Iterable[str], digits: int = 2) -> list[str]:
    """The perplexity of each label, "–" where it was not measured."""
    return [f"{math.exp(loss[label]):.{digits}f}" if label in loss else "–" for label in labels]


def perplexity(results: list[Result], kinds: Iterable[str]) -> str:
    """LongMem beside what it has to be compared with, over the same tokens; intervals over documents."""
    own = {label: records(results, label) for label in LABELS}
    _check_tokens(own)
    rows = []
    for kind in kinds:
        tokens = sum(r["tokens"] for r in own["window"].values() if r["kind"] == kind)
        loss = {label: nats(own[label], kind) for label in LABELS}
        changes = (_change(own["longmem"], own[label], kind) for label in COMPARED_WITH)
        gain = loss["memory off"] - loss["longmem"]
        shares = (f"{(loss['memory off'] - loss[label]) / gain:.0%}" for label in ("attention only", "n-gram cache"))
        rows.append([kind, f"{tokens:,}", *_shown(loss, LABELS), *changes, *shares])
    against = [f"LongMem against {label}" for label in COMPARED_WITH]
    names = [*LABELS, *against, "attention only, of memory's gain", "n-gram cache, of memory's gain"]
    return f"{grid(['kind', 'tokens', *names], rows)}\n\n{command(results, 'long_text', LABELS)}"


def _check_tokens(own: dict[str, dict[str, dict]]) -> None:
    assert len({tuple((i, r["tokens"]) for i, r in sorted(o.items())) for o in own.values()}) == 1, "other tokens"


def _change(own: dict[str, dict], base: dict[str, dict], kind: str) -> str:
    """Change of perplexity over the documents of a kind, with the 95% bootstrap interval over documents."""
    names = [name for name, record in own.items() if record["kind"] == kind]
    data = np.array([(own[name]["nats"] - base[name]["nats"], own[name]["tokens"]) for name in names])
    drawn = data[np.random.default_rng(0).integers(len(data), size=(RESAMPLES, len(data)))].sum(axis=1)
    low, high = np.quantile(np.expm1(drawn[:, 0] / drawn[:, 1]), [0.025, 0.975])
    return f"{math.expm1(data[:, 0].sum() / data[:, 1].sum()):+.1%} ({low:+.1%} to {high:+.1%})"


def earlier_perplexity(results: list[Result], kinds: Iterable[str]) -> str:
    """The three comparisons with a SideNet trained without memory, over the same tokens."""
    own, rows = records(results, "window"), []
    for kind in kinds:
        tokens = sum(r["tokens"] for r in own.values() if r["kind"] == kind)
        rows.append([kind, f"{tokens:,}", *_comparison(losses(results, EARLIER_LABELS, own, kind))])
    table = grid(["kind", "tokens", *COMPARED], rows)
    return f"{table}\n\n{command(results, 'long_text', EARLIER_LABELS)}"


def overlap() -> str:
    """From overlap.json: of each kind the share of runs of words that stand in training documents."""
    result = json.loads((RESULTS / "overlap.json").read_text())
    rows = []
    for kind, own in result["results"].items():
        worst = max(own, key=own.__getitem__)
        rows.append([kind, f"{fmean(own.values()):.1%}", f"{own[worst]:.1%} ({worst})"])
    return f"{grid(['kind', 'mean of the documents', 'worst'], rows)}\n\n`{result['command']}`"


def _comparison(loss: dict[str, float]) -> list[str]:
    """From nats a token by label: perplexities, then what LongMem, its memory and full context gain."""
    bound, share = loss["window"] - loss["full"], loss["no memory"] - loss["longmem"]
    return [
        *_shown(loss, EARLIER_LABELS),
        *(_against(loss, label) for label in ("window", "n-gram cache", "no memory")),
        f"{math.expm1(-bound):+.1%}",
        f"{share / bound:.0%}",
        _shares(loss),
    ]


def _shares(loss: Mapping[str, float]) -> str:
    """What attention only and the n-gram cache gain of what LongMem gains over memory off, in nats."""
    if not loss.keys() >= set(BESIDE):
        return "–"
    off = loss["memory off"]
    return ", ".join(f"{(off - loss[label]) / (off - loss['longmem']):.0%}" for label in BESIDE[1:])


def _changes(loss: Mapping[str, float]) -> list[str]:
    """The columns of CHANGES."""
    return [_against(loss, label) for label in ("window", "memory off", "n-gram cache")]


def _against(loss: Mapping[str, float], label: str) -> str:
    """Change of LongMem's perplexity against a label's."""
    return f"{math.expm1(loss['longmem'] - loss[label]):+.1%}" if label in loss else "–"


def positions(results: list[Result]) -> str:
    """Perplexity by place in the document, all documents of a kind."""
    rows = [[_name(place), *_shown(loss, LABELS)] for place, loss in places(results, KINDS, LABELS)]
    return grid(["place in the document", *LABELS], rows)


def places(
    results: list[Result], kinds: Iterable[str], labels: Sequence[str]
) -> Iterator[tuple[tuple[str, int, int], dict[str, float]]]:
    """Kind and place in the document with the nats there, of the labels that scored all documents of the first."""
    own = over(results, labels, records(results, labels[0]))
    for kind in kinds:
        by_label = {label: _by_position(found, kind) for label, found in own.items()}
        for place in by_label[labels[0]]:
            yield (kind, *place), {label: values[place] for label, values in by_label.items()}


def _name(place: tuple[str, int, int]) -> str:
    return f"{place[0]} {place[1]:,}–{place[2]:,}"


def _by_position(own: dict[str, dict], kind: str) -> dict[tuple[int, int], float]:
    sums: dict[tuple[int, int], list[float]] = {}
    for record in own.values():
        for part in record["positions"] if record["kind"] == kind else ():
            total = sums.setdefault((part["from"], part["to"]), [0.0, 0])
            total[0] += part["nats"]
            total[1] += part["tokens"]
    return {place: total / tokens for place, (total, tokens) in sums.items()}


def baselines(results: list[Result]) -> str:
    """Perplexity of every method by kind, over the same tokens."""
    documents = records(results, "window")
    labels = ("window", "sinks", "memorizing", "no memory", *BESIDE, "longmem", "coupled", "full")
    rows = [[kind, *_shown(losses(results, labels, documents, kind), labels)] for kind in kinds_of(documents)]
    return f"{grid(['kind', *labels], rows)}\n\n{command(results, 'long_text', labels)}"


def windows(results: list[Result], apart: dict[str, list[Result]]) -> str:
    """The three comparisons by local window, over the documents that were run at all windows."""
    at = {size: apart[f"window-{size}"] for size in WINDOWS} | {1024: results}
    documents, rows = records(at[WINDOWS[0]], "window"), []
    for kind in kinds_of(documents):
        full = losses(results, ["full"], documents, kind)
        for size, found in sorted(at.items()):
            loss = losses(found, EARLIER_LABELS, documents, kind)
            rows.append([f"{kind}, {size:,}", *_comparison({**loss, **full})])
    table = grid(["kind, window", *COMPARED], rows)
    runs = [command(at[size], "long_text", EARLIER_LABELS) for size in WINDOWS]
    return "\n\n".join([table, "\n".join(runs)])


def adapted_bound(results: list[Result], apart: list[Result]) -> str:
    """What memory gains beside what the same SideNet without memory gains from all its true context."""
    documents, rows = records(apart, "no memory"), []
    for kind in kinds_of(documents):
        loss = losses(results, EARLIER_LABELS, documents, kind)
        whole = nats(documents, kind)
        share, bound = loss["no memory"] - loss["longmem"], loss["no memory"] - whole
        rows.append(
            [
                kind,
                *_shown({**loss, "whole": whole}, ("no memory", *BESIDE, "longmem", "whole")),
                f"{math.expm1(-share):+.1%}",
                f"{math.expm1(-bound):+.1%}",
                f"{share / bound:.0%}",
                f"{share / (loss['window'] - loss['full']):.0%}",
            ]
        )
    header = ["kind", "no memory", *BESIDE, "longmem", "no memory, 8k in its window"]
    header += ["memory's own share", "the adapted bound", "share of it", "share of the backbone's bound"]
    return f"{grid(header, rows)}\n\n{command(apart, 'long_text', ['no memory'])}"


def half_window(results: list[Result], apart: list[Result]) -> str:
    """The same comparisons where half of a full window is kept."""
    documents, rows = records(apart, "window"), []
    for kind in kinds_of(documents):
        loss = losses(apart, EARLIER_LABELS, documents, kind)
        rows.append([kind, *_comparison({**loss, **losses(results, ["full"], documents, kind)})])
    table = grid(["kind", *COMPARED], rows)
    return f"{table}\n\n{command(apart, 'long_text', EARLIER_LABELS)}"


def eviction(apart: list[Result]) -> str:
    """Perplexity by what leaves a full memory first, and what it still finds."""
    documents = records(apart, "everything")
    labels = [*BESIDE, *EVICTED]
    rows = [[kind, *_shown(losses(apart, labels, documents, kind), labels, digits=3)] for kind in kinds_of(documents)]
    text = f"{grid(['perplexity', *labels], rows)}\n\n{command(apart, 'long_text', labels)}"
    recall = plain(apart, "recall", ("choice_accuracy",), ("variant", "length"))
    return f"{text}\n\nThe right key the likeliest of ten:\n\n{recall}"


def chunks(results: list[Result], apart: list[Result]) -> str:
    """LongMem's perplexity by chunk size; chunks of 2 are what it was trained with."""
    documents, rows = records(apart, "chunks of 1"), []
    labels = [f"chunks of {size}" for size in (1, 2, 4, 8, 16)]
    for kind in kinds_of(documents):
        beside = losses(results, (*BESIDE, "longmem"), documents, kind)
        loss = {**losses(apart, labels, documents, kind), **beside, "chunks of 2": beside["longmem"]}
        rows.append([kind, *_shown(loss, (*BESIDE, *labels))])
    return f"{grid(['kind', *BESIDE, *labels], rows)}\n\n{command(apart, 'long_text', [r.label for r in apart])}"


def beyond(apart: list[Result]) -> str:
    """Perplexity by place in a book past 8k, and by the size of the memory."""
    sizes = [result.label for result in apart if result.label.startswith("memory of ")]
    labels = ["window", "no memory", *BESIDE, "longmem", *sizes]
    rows = [
        [_name(place).removeprefix("books "), *_shown(loss, labels), *_changes(loss)]
        for place, loss in places(apart, ["books"], labels)
    ]
    return f"{grid(['place in the book', *labels, *CHANGES], rows)}\n\n{command(apart, 'long_text', labels)}"


def beyond_kinds(apart: list[Result]) -> str:
    """The same of technical documents and LaTeX, against the same SideNet with its memory off and with counts."""
    labels = ("window", *BESIDE, "longmem")
    found = places(apart, ("techdocs", "latex_math"), labels)
    rows = [[_name(place), *_shown(loss, labels), *_changes(loss)] for place, loss in found]
    return f"{grid(['place in the document', *labels, *CHANGES], rows)}\n\n{command(apart, 'long_text', labels)}"


def recall_facts(apart: list[Result]) -> str:
    """Facts said once: answers given, and the right one the likeliest of ten, by the way they are asked for."""
    labels = [label for label in ("longmem", "em_llm", "ngram", "window") if of(apart, "recall", label)]
    parts = []
    for metric, title in (("accuracy", "said"), ("choice_accuracy", "likeliest of ten")):
        by_label = {label: _by_variant(of(apart, "recall", label), metric) for label in labels}
        places = sorted({place for own in by_label.values() for place in own})
        rows = [
            [f"`{label}`", *(_of_all(own[place]) if place in own else "–" for place in places)]
            for label, own in by_label.items()
        ]
        parts.append(grid([title, *(f"{variant}, {length:,} tokens" for variant, length in places)], rows))
    return "\n\n".join([*parts, command(apart, "recall", labels)])


def _by_variant(result: Result | None, metric: str) -> dict[tuple[str, int], Row]:
    """Of each variant and length the row of all depths."""
    assert result is not None
    found = [row for row in result.rows if row.metric == metric and set(row.condition) == {"variant", "length"}]
    return {(row.condition["variant"], row.condition["length"]): row for row in found}


def _of_all(row: Row) -> str:
    """Right answers of all, with the interval."""
    return f"{round(row.value * row.count)} of {row.count} ({row.low:.0%} to {row.high:.0%})"


def book_questions() -> str:
    """From book_questions.json: right answers of all, with Wilson's interval."""
    result = json.loads((RESULTS / "book_questions.json").read_text())
    rows = []
    for label, found in result["results"].items():
        cells = []
        for way in found["right"]:
            right = [record["right"] for record in found["records"] if record["way"] == way]
            _, low, high = wilson_interval(sum(right), len(right))
            cells.append(f"{sum(right)} of {len(right)} ({low:.0%} to {high:.0%})")
        rows.append([f"`{label}`", *cells])
    header = ["two books, read whole", "questions answered", "sentences of the books continued to the answer"]
    return f"{grid(header, rows)}\n\n`{result['command']}`"


def _only(own: dict[str, dict], documents: Iterable[str]) -> dict[str, dict]:
    return {name: own[name] for name in documents}


def plain(results: list[Result], task: str, metrics: tuple[str, ...], names: tuple[str, ...]) -> str:
    """Rows of metrics whose condition has just these names, methods as columns."""
    own = [r for r in results if r.task == task and not r.failed]
    cells: dict[tuple, dict[str, str]] = {}
    for result in own:
        for row in result.rows:
            if row.metric in metrics and tuple(row.condition) == names:
                interval = "" if row.low is None else f" ({row.low:.1%} to {row.high:.1%})"
                key = (*row.condition.values(), *([row.metric] if len(metrics) > 1 else []))
                cells.setdefault(key, {})[result.label] = f"{row.value:.1%}{interval}"
    labels = [result.label for result in own]
    rows = [[" ".join(map(str, key)), *(found.get(label, "–") for label in labels)] for key, found in cells.items()]
    return f"{grid([' '.join(names), *labels], rows)}\n\n{command(results, task, labels)}"


def in_context(results: list[Result]) -> str:
    """Accuracy by set, local and remembered demonstrations, both scorings."""
    labels, parts = ("window", "longmem"), []
    for metric in ("argmax", "likelihood"):
        cells: dict[tuple, dict[tuple, float]] = {}
        for label in labels:
            found = of(results, "in_context", label)
            assert found is not None
            for row in found.rows:
                if metric in row.metric:
                    key = tuple(row.condition.values())  # data set, local, remembered
                    cells.setdefault(key[:2], {})[(label, key[2])] = row.value
        columns = sorted({column for found in cells.values() for column in found}, key=lambda c: (c[0] != "window", c))
        header = ["set, local demonstrations", *(f"{label}, {count:,} remembered" for label, count in columns)]
        rows = [
            [", ".join(map(str, k)), *(f"{v[c]:.1%}" if c in v else "–" for c in columns)] for k, v in cells.items()
        ]
        parts.append(f"{metric}:\n\n{grid(header, rows)}")
    gains = _gains({label: of(results, "in_context", label) for label in labels})
    return "\n\n".join([*parts, gains, command(results, "in_context", labels)])


def _gains(by_label: dict[str, Result | None]) -> str:
    """What remembered demonstrations add to the average of the sets, draw by draw, with intervals over draws."""
    rows = []
    for label, result in by_label.items():
        assert result is not None
        right: dict[
            tuple, dict[tuple, list[float]]
        ] = {}  # (metric, local, remembered) -> (draw, set) -> right or wrong
        for record in result.records:
            for metric in ("argmax", "likelihood"):
                own = right.setdefault((metric, record["local"], record["remembered"]), {})
                own.setdefault((record["seed"], record["dataset"]), []).append(record[f"{metric}_correct"])
        for (metric, local, remembered), with_memory in sorted(right.items()):
            if not remembered:
                continue
            without = right[metric, local, 0]
            by_draw: dict[int, list[float]] = {}
            for (draw, name), own in with_memory.items():
                by_draw.setdefault(draw, []).append(fmean(own) - fmean(without[draw, name]))
            gain, low, high = t_interval([fmean(own) for own in by_draw.values()])
            interval = "" if low is None else f" ({100 * low:+.1f} to {100 * high:+.1f})"
            rows.append([f"{label}, {metric}, {local} local", f"{remembered:,}", f"{100 * gain:+.1f}{interval}"])
    return grid(["average over the sets", "remembered", "points gained, 95% over draws"], rows)


def seeds() -> str:
    """From longmem_seeds.json: the mean over training seeds with its interval, and each seed's figure."""
    result = json.loads((RESULTS / "longmem_seeds.json").read_text())
    rows = []
    for kind in SEED_KINDS:
        compared, cells = result["results"][kind], []
        for values in compared.values():
            each = ", ".join(f"{value:+.1%}" for value in values)
            cells.append(f"{as_interval(values)}: {each}")
        rows.append([kind, *cells])
    return f"{grid(['kind', *next(iter(result['results'].values()))], rows)}\n\n`{result['command']}`"


def as_interval(values: Sequence[float]) -> str:
    mean, low, high = t_interval(values)
    return f"{mean:+.1%}" if low is None else f"{mean:+.1%} ({low:+.1%} to {high:+.1%})"


def context() -> str:
    """From longmem_context.json."""
    result = json.loads((RESULTS / "longmem_context.json").read_text())
    rows = []
    for length, found in result["results"].items():
        full, memory = found["full"], found["longmem"]
        rows.append(
            [
                f"{int(length):,}",
                f"{full['take_in_tokens_per_s']:,.0f} / {memory['take_in_tokens_per_s']:,.0f}",
                f"{found['taking in, ratio']:.2f} x",
                f"{full['generate_tokens_per_s']:.1f} / {memory['generate_tokens_per_s']:.1f}",
                f"{found['generating, ratio']:.2f} x",
                f"{full['bytes'] / 2**20:,.0f} / {memory['bytes'] / 2**20:,.0f}",
                f"{found['bytes, ratio']:.3f} x",
            ]
        )
    header = ["context", "taking in, tokens/s: full / LongMem", "", "generating, tokens/s", "", "MiB held", ""]
    return f"{grid(header, rows)}\n\n`{result['command']}`"


def cost() -> str:
    """From longmem_speed_*.json: what LongMem costs beside its backbone."""
    results = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("longmem_speed_*.json"))]
    rows = [[what, *(figure(result["results"]) for result in results)] for what, figure in _COSTS.items()]
    table = grid(["", *(result["dtype"].removeprefix("torch.") for result in results)], rows)
    commands = dict.fromkeys(f"`{result['command']}`" for result in results)
    machines = dict.fromkeys(f"{r['machine']['processor']}, {r['machine']['cores']} cores" for r in results)
    return "\n\n".join([table, f"Measured on {'; '.join(machines)}.", "\n".join(commands)])


_COSTS: dict[str, Callable[[dict], str]] = {
    "reading a document, against the backbone's plain forward (tokens/s)": lambda r: f"{r['reading']['ratio']:.2f} x",
    "generating with 64k remembered tokens, against none (seconds)": lambda r: f"{r['generating']['ratio']:.2f} x",
    "the same, against the bare backbone": lambda r: f"{r['generating']['ratio_to_backbone']:.2f} x",
    "retrieval for 1,024 tokens from 65,536, against the forward": lambda r: f"{r['retrieval']['ratio']:.1%}",
    "the pointer's search, likewise": lambda r: f"{r['retrieval']['pointer_ratio']:.1%}",
    "bytes a remembered token: keys and values, from the config": lambda r: (
        f"{r['bytes']['keys_and_values_from_config']:.0f}"
    ),
    "all tensors held": lambda r: f"{r['bytes']['held_tensors']:.0f}",
    "resident memory": lambda r: f"{r['bytes']['resident']:.0f}",
    "on disk": lambda r: f"{r['bytes']['on_disk']:.0f}",
}


if __name__ == "__main__":
    main()
