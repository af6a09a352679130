"""What docs/results.md shows of LongMem by `ltm bench run`: one call for each experiment, resumed if stopped.

    python benchmarks/longmem_experiments.py --list
    python benchmarks/longmem_experiments.py --data data --runs runs
    python benchmarks/results_page.py

data: folder of data sets as `ltm bench run --data` takes it; runs: what benchmarks/longmem_learns.py wrote (no_memory,
coupled) and `ltm train --method memorizing` (memorizing). LongMem itself is the SideNet that is shipped.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess

from common import RESULTS, notice

from ltm.bank import EVICTIONS

KINDS = "long_text.kinds=books,techdocs,latex_math"
ALL_KINDS = f"{KINDS},techdocs_other,latex_other"
"""With those of projects of which no document was trained on."""
RUN_ON_OTHER_WEIGHTS = {
    "no memory": "longmem@{runs}/no_memory:local_window=1024 as no memory",
    "coupled": "longmem@{runs}/coupled:local_window=1024 as coupled",
    "memorizing": "memorizing@{runs}/memorizing as memorizing",
}
EVENTS = ["em_llm", "em_llm:segmentation=blocks as blocks"]
FAR = ["window", "longmem:memory_size=262144 as longmem", *EVENTS]
RECENT = "longmem:recent_tokens=512 as recent"
"""LongMem with what was read last in its window, beside memory."""
NO_COPYING = [
    "longmem:pointer_trust=-20 as no copying",
    "longmem:recent_tokens=512,pointer_trust=-20 as recent no copying",
]
"""LongMem whose pointer is shut, and the same with what was read last in its window."""
MEMORY_OFF = "longmem:use_memory=False as memory off"
"""LongMem itself that remembers nothing, where the SideNet trained without memory was not run."""
ATTENTION_ONLY = "longmem:pointer=False as attention only"
"""The paper's mechanism without our pointer."""
NGRAM = "ngram:inner=src/ltm/weights/smollm2-135m/longmem as n-gram cache"
"""What token ids alone give the SideNet that is shipped, its memory off."""
COMPARED_WITH = [MEMORY_OFF, ATTENTION_ONLY, NGRAM]
"""What stands beside LongMem in its tables of perplexity; all with the window and stride of the experiment."""
POLICIES = [
    "longmem as everything",
    *(f"longmem:memory_size=2048,evict={policy} as {policy}" for policy in EVICTIONS),
]
WINDOWS = (256, 512, 2048)
"""Beside 1,024, which the main experiment has."""

Experiment = tuple[str, list[str], list[str]]
"""Folder of results below benchmarks/results, methods, task and settings."""


def experiments() -> dict[str, Experiment]:
    others = list(RUN_ON_OTHER_WEIGHTS.values())
    long_text = ["long_text", KINDS]
    eight = ["long_text.documents=4", "long_text.max_tokens=8192"]
    fewer = ["long_text.documents=2", "long_text.max_tokens=8192"]
    longer = ["long_text", "long_text.kinds=books", "long_text.documents=1", "long_text.max_tokens=32768"]
    return {
        "long_text": ("bench", ["window", *COMPARED_WITH, "longmem", "full"], ["long_text", ALL_KINDS, *eight]),
        "earlier": ("earlier", ["window", "sinks", "longmem", *others, "full"], [*long_text, *eight]),
        **{
            f"window-{size}": (
                f"window-{size}",
                ["window", "longmem@{runs}/no_memory as no memory", *COMPARED_WITH, "longmem"],
                [*long_text, *fewer, f"window={size}"],
            )
            for size in WINDOWS
        },
        "whole-context": (
            "whole-context",
            ["longmem@{runs}/no_memory as no memory"],
            [*long_text, *fewer, "window=8192"],
        ),
        "wikitext": (
            "wikitext",
            ["window", RUN_ON_OTHER_WEIGHTS["no memory"], *COMPARED_WITH, "longmem", "full"],
            ["long_text", "long_text.kinds=wikitext2", "long_text.documents=8", "long_text.max_tokens=8192"],
        ),
        "half-window": (
            "half-window",
            ["window", RUN_ON_OTHER_WEIGHTS["no memory"], *COMPARED_WITH, "longmem"],
            [*long_text, *fewer, "stride=512"],
        ),
        "untrained": (
            "untrained",
            ["window", "sinks", "full", *EVENTS, "quest"],
            [*long_text, "long_text.documents=1", "long_text.max_tokens=8192", "stride=512"],
        ),
        "chunks": (
            "chunks",
            [f"longmem:chunk_size={size} as chunks of {size}" for size in (1, 4, 8, 16)],
            [*long_text, "long_text.documents=1", "long_text.max_tokens=8192"],
        ),
        "beyond": (
            "beyond",
            [
                "window",
                RUN_ON_OTHER_WEIGHTS["no memory"],
                *COMPARED_WITH,
                "longmem",
                *(f"longmem:memory_size={size} as memory of {size}" for size in (2048, 8192)),
            ],
            longer,
        ),
        "beyond-kinds": (
            "beyond-kinds",
            ["window", *COMPARED_WITH, "longmem"],
            ["long_text", "long_text.kinds=techdocs,latex_math", "long_text.documents=4", "long_text.max_tokens=32768"],
        ),
        "suffix": (
            "bench",
            ["window", "longmem", others[1], others[2], "full"],
            ["suffix", "suffix.num_examples=60", "suffix.lengths=4096"],
        ),
        "suffix-lengths": (
            "suffix-lengths",
            ["window", "longmem"],
            ["suffix", "suffix.num_examples=30", "suffix.lengths=1024,16384"],
        ),
        "in_context": (
            "bench",
            ["window", "longmem"],
            ["in_context", "in_context.seeds=6", "in_context.examples=100"],
        ),
        "reading": (
            "bench",
            ["window", "longmem", RECENT, *NO_COPYING],
            ["reading", "reading.seeds=1", "reading.examples=100"],
        ),
        "eviction": (
            "eviction",
            [*COMPARED_WITH, *POLICIES],
            [*long_text, "long_text.documents=2", "long_text.max_tokens=16384"],
        ),
        "eviction-recall": (
            "eviction",
            POLICIES,
            ["recall", "recall.variants=sentences", "recall.lengths=4096,8192", "recall.trials=3"],
        ),
        "recall": (
            "bench",
            ["window", "longmem", "full"],
            ["recall", "recall.variants=passkey,multi", "recall.lengths=4096,16384,65536", "recall.trials=1"],
        ),
        "recall-pairs": (
            "recall-pairs",
            ["window", "longmem", "em_llm", "full"],
            ["recall", "recall.variants=key_value,uuid", "recall.lengths=4096", "recall.pairs=75", "recall.trials=1"],
        ),
        "recall-sentences": (
            "recall-sentences",
            [
                "longmem",
                "sinks",
                "window",
                "full",
                "quest",
                *EVENTS,
                others[2],
            ],
            ["recall", "recall.variants=sentences", "recall.lengths=4096,16384", "recall.trials=1"],
        ),
        "recall-trials": (
            "recall-trials",
            FAR,
            ["recall", "recall.variants=sentences", "recall.lengths=4096,16384", "recall.trials=3"],
        ),
        "recall-facts": (
            "recall-facts",
            ["longmem", "em_llm", "ngram", "window"],
            ["recall", "recall.variants=facts,reworded", "recall.lengths=4096,16384", "recall.trials=4"],
        ),
        "recall-far": (
            "recall-far",
            FAR,
            ["recall", "recall.variants=sentences", "recall.lengths=65536", "recall.trials=1"],
        ),
        "recall-farthest": (
            "recall-farthest",
            FAR,
            ["recall", "recall.variants=sentences", "recall.lengths=262144", "recall.trials=1"],
        ),
    }


def main() -> None:
    known = experiments()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="data")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--only", default=",".join(known), help="experiments, with commas")
    parser.add_argument("--methods", help="only methods whose label or name is here, with commas")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    arguments = parser.parse_args()
    for name in arguments.only.split(","):
        command = command_of(known[name], arguments)
        notice(f"{name}: {shlex.join(command)}")
        if not arguments.list:
            subprocess.run(command, check=True)


def command_of(experiment: Experiment, arguments: argparse.Namespace) -> list[str]:
    folder, methods, (task, *settings) = experiment
    chosen = [spec.format(runs=arguments.runs) for spec in methods if _is_chosen(spec, arguments.methods)]
    out = os.path.relpath(RESULTS / folder)
    given = ["--data", arguments.data, "--out", out, "--tasks", task, "--methods", ",".join(chosen)]
    for setting in settings:
        name, _, value = setting.partition("=")
        given += [f"--{name}", value] if name in ("window", "stride") else ["--set", setting]
    return ["ltm", "bench", "run", *given]


def _is_chosen(spec: str, wanted: str | None) -> bool:
    return wanted is None or spec.rpartition(" as ")[2] in wanted.split(",")


if __name__ == "__main__":
    main()
