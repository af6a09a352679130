"""How much the training seed matters: short trainings, the same but for the seed, with an interval.

    python benchmarks/measurements/longmem_seeds.py --data DATA --runs RUNS  # three seeds, an hour on one core; resumes

The seed draws the order of the documents and the new weights. Each seed trains LongMem and the same SideNet without
memory on the same stream (tools/train_sidenet.py), then scores both and the window on the same test documents, in
non-overlapping windows of one segment; a seed whose result file is there is not run again. Prints LongMem against the
SideNet without memory (memory's own share) and against the window, as the mean over seeds with Student's 95% interval.
Writes benchmarks/results/longmem_seed_N.json and longmem_seeds.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

from common import KINDS, RESULTS, machine, notice, print_table, write_result

from ltm.backbone import Backbone, load_backbone
from ltm.data.documents import iter_documents
from ltm.data.tokens import token_ids
from ltm.methods import create_method, load_method
from ltm.tasks.intervals import t_interval
from ltm.tasks.long_text import perplexity_rows, score_document

TRAIN = Path(__file__).parents[2] / "tools" / "train_sidenet.py"
COMPARED = {
    "longmem against no memory": ("longmem", "no_memory"),
    "longmem against window": ("longmem", "window"),
    "no memory against window": ("no_memory", "window"),
}
SEGMENT, TEST_TOKENS = 512, 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with books, techdocs and latex_math")
    parser.add_argument("--runs", type=Path, required=True, help="where the trained SideNets go")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=150_000, help="training tokens of each run")
    parser.add_argument("--test-documents", type=int, default=4, help="of each kind, 4,096 tokens of each")
    arguments = parser.parse_args()
    found = [one_seed(arguments, seed) for seed in range(arguments.seeds)]
    figures = {kind: {what: [own["results"][kind][what] for own in found] for what in COMPARED} for kind in KINDS}
    rows = [[kind, *(as_interval(values) for values in by_what.values())] for kind, by_what in figures.items()]
    print_table(["kind", *COMPARED], rows)
    config = {name: getattr(arguments, name) for name in ("seeds", "tokens", "test_documents")}
    write_result("longmem_seeds", {"config": config, "machine": machine(), "results": figures})


def one_seed(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train with this seed and score; what its file says where it is there."""
    name = f"longmem_seed_{seed}"
    file, out = RESULTS / f"{name}.json", arguments.runs / f"seed_{seed}"
    if not file.exists():
        notice(f"seed {seed}")
        options = {"data": arguments.data, "out": out, "seed": seed, "tokens": arguments.tokens}
        given = [str(word) for option, value in options.items() for word in (f"--{option}", value)]
        subprocess.run([sys.executable, str(TRAIN), *given, "--resume"], check=True)
        results = {kind: compared(load_backbone("smollm2-135m"), arguments, out, kind) for kind in KINDS}
        config = {"seed": seed, "tokens": arguments.tokens, "test_documents": arguments.test_documents}
        write_result(name, {"config": config, "results": results, "machine": machine()})
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def compared(backbone: Backbone, arguments: argparse.Namespace, runs: Path, kind: str) -> dict[str, Any]:
    """Perplexity of each method on the first test documents of a kind, and what these show of each other."""
    window = {"local_window": SEGMENT, "stride": SEGMENT}
    methods = {name: load_method(backbone, runs / name, **window) for name in ("no_memory", "longmem")}
    methods["window"] = create_method("window", backbone, **window)
    documents = list(islice(iter_documents(arguments.data / kind / "test.jsonl.gz"), arguments.test_documents))
    ids = {document.name: token_ids(backbone.tokenizer, document.text)[:TEST_TOKENS] for document in documents}
    scores: dict[str, float] = {}
    for name, method in methods.items():
        records = [score_document(method, kind=kind, name=document, ids=own)[0] for document, own in ids.items()]
        scores[name] = perplexity_rows(records)[0].value
        notice(f"{kind}: {name} {scores[name]:.3f}")
    changes = {what: scores[own] / scores[base] - 1 for what, (own, base) in COMPARED.items()}
    return {"tokens": sum(len(own) - 1 for own in ids.values()), "perplexity": scores, **changes}


def as_interval(values: list[float]) -> str:
    mean, low, high = t_interval(values)
    return f"{mean:+.1%}" if low is None else f"{mean:+.1%} ({low:+.1%} to {high:+.1%})"


if __name__ == "__main__":
    main()
