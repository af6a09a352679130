"""How much the training seed matters: short runs of `longmem_learns.py`, the same but for the seed, with an interval.

    python benchmarks/measurements/longmem_seeds.py --data DATA --runs RUNS  # three seeds, an hour on one core; resumes

The seed draws the order of the documents and the new weights. Each seed trains LongMem and the same SideNet without
memory on the same stream, then scores both and the window on the same test documents; a seed whose result file is there
is not run again. Prints LongMem against the SideNet without memory (memory's own share) and against the window, as the
mean over seeds with Student's 95% interval. Writes benchmarks/results/longmem_seeds.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import KINDS, RESULTS, machine, notice, print_table, write_result

from ltm.tasks.intervals import t_interval

COMPARED = ("longmem against no memory", "longmem against window", "no memory against window")


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
    """What longmem_learns.py found with this seed, run if its file is not there."""
    name = f"longmem_seed_{seed}"
    file = RESULTS / f"{name}.json"
    if not file.exists():
        notice(f"seed {seed}")
        script = Path(__file__).parents[2] / "tools" / "longmem_learns.py"
        options = {
            "data": arguments.data,
            "out": arguments.runs / f"seed_{seed}",
            "seed": seed,
            "tokens": arguments.tokens,
            "test-documents": arguments.test_documents,
            "name": name,
        }
        given = [str(word) for option, value in options.items() for word in (f"--{option}", value)]
        subprocess.run([sys.executable, str(script), *given, "--resume"], check=True)
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def as_interval(values: list[float]) -> str:
    mean, low, high = t_interval(values)
    return f"{mean:+.1%}" if low is None else f"{mean:+.1%} ({low:+.1%} to {high:+.1%})"


if __name__ == "__main__":
    main()
