"""Write the README's figures from the result files: python docs/build/readme_tables.py"""

from __future__ import annotations

import json
import re
from pathlib import Path

from recall_maps import recall_table
from results_page import KINDS, book_questions, overlap, perplexity, recall_facts

from ltm.bench.results import Result, read_results

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
SHIPPED = ROOT / "src" / "ltm" / "weights" / "smollm2-135m" / "longmem" / "train_config.json"
START, END = "<!-- measured: docs/build/readme_tables.py -->", "<!-- end -->"


def main() -> None:
    readme = ROOT / "README.md"
    parts = [
        quality(read_results(RESULTS / "bench")),
        recall(),
        speed(*map(load, sorted(file.stem for file in RESULTS.glob("longmem_speed_*.json")))),
    ]
    body = "\n\n".join([START, *parts, END])
    text = readme.read_text()
    pattern = re.compile(re.escape(START) + ".*?" + re.escape(END), re.DOTALL)
    readme.write_text(pattern.sub(lambda _: body, text))


def load(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def quality(results: list[Result]) -> str:
    """The perplexity table of docs/results.md, below how the SideNet was trained as the package records it."""
    runs = json.loads(SHIPPED.read_text())
    minutes = sum(run["seconds"] for run in runs) / 60
    return (
        "**Perplexity** of SmolLM2-135M-Instruct (bfloat16) on test documents of up to 8,192 tokens, in separate "
        f"windows of 1,024, with the SideNet that is shipped ({minutes:.0f} minutes of training on one and two cores), "
        "and the change with its 95% interval over documents. *Memory off*, *attention only* (the paper's mechanism, "
        "without our pointer) and *n-gram cache* (token ids alone, memory off) are the same SideNet; *full* is the "
        "backbone with all of its true context, in 30 times the bytes. More, and what falls short: "
        "[docs/results.md](docs/results.md).\n\n" + perplexity(results, KINDS) + "\n\n"
        "How much of the test documents stands in the training split, by runs of 13 words. latex_math is chapters of "
        "one project, some of which were trained on; latex_other and techdocs_other are projects of which none was.\n\n"
        + overlap()
    )


def recall() -> str:
    """The table of docs/methods.md, facts said once, and what the shipped model cannot do."""
    return (
        "**Recall**: five keys in sentences of their own at five depths of a text of essays, of which each is asked "
        "for by its sentence's beginning; `blocks` is `em_llm` with segmentation=blocks. "
        "`python benchmarks/longmem_experiments.py --only "
        "recall-sentences,recall-trials,recall-far,recall-farthest`\n\n" + recall_table(RESULTS) + "\n\n"
        "Each of these keys is said twice, in words chosen so that the backbone can do it. **Facts said once**, in "
        "many forms that were not (names, places, things, numbers; five in a text of essays), asked for by their "
        "sentence's beginning (*facts*) or by another wording's (*reworded*):\n\n"
        + recall_facts(read_results(RESULTS / "recall-facts"))
        + "\n\n**Questions** over a whole book, and the same facts by the beginnings of the book's sentences, up to "
        "the answer:\n\n" + book_questions()
    )


def speed(*results: dict) -> str:
    rows = [
        "| | " + " | ".join(r["dtype"].removeprefix("torch.") for r in results) + " |",
        "| --- |" + " --: |" * len(results),
    ]
    lines = [
        (
            "reading a document, against the backbone's plain forward (tokens/s)",
            lambda r: f"{r['reading']['ratio']:.2f} x",
        ),
        (
            "generating with 64k remembered tokens, against none (seconds)",
            lambda r: f"{r['generating']['ratio']:.2f} x",
        ),
        ("the same, against the bare backbone", lambda r: f"{r['generating']['ratio_to_backbone']:.2f} x"),
        (
            "retrieval for 1,024 tokens from 65,536, against the forward",
            lambda r: f"{r['retrieval']['ratio']:.1%}",
        ),
        (
            "the pointer's search, likewise",
            lambda r: f"{r['retrieval']['pointer_ratio']:.1%}",
        ),
        (
            "bytes a remembered token: keys and values, from the config",
            lambda r: f"{r['bytes']['keys_and_values_from_config']:.0f}",
        ),
        ("all tensors held", lambda r: f"{r['bytes']['held_tensors']:.0f}"),
        ("resident memory", lambda r: f"{r['bytes']['resident']:.0f}"),
        ("on disk", lambda r: f"{r['bytes']['on_disk']:.0f}"),
    ]
    for label, figure in lines:
        rows.append(f"| {label} | " + " | ".join(figure(r["results"]) for r in results) + " |")
    processors = sorted({f"{r['machine']['processor']}, {r['machine']['cores']} cores" for r in results})
    head = (
        f"**Cost** on one machine ({'; '.join(processors)}). Shares of the forward are larger where a processor "
        "multiplies bfloat16 faster than it searches. "
        "`python benchmarks/measurements/longmem_speed.py [--dtype float32]`"
    )
    return head + "\n\n" + "\n".join(rows)


if __name__ == "__main__":
    main()
