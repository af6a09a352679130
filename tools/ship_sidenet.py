"""Put a trained SideNet into the package: weights in int8, its config, its training log and how it was made.

    python tools/train_sidenet.py --data DATA --out RUN1
    python tools/train_sidenet.py --data DATA --start-from RUN1 --out RUN2 --runs longmem
    python tools/fit_pointer.py --data DATA --start-from RUN2 --out RUN3
    python tools/ship_sidenet.py RUN1/longmem RUN2/longmem RUN3/longmem --name smollm2-135m

The runs are those that led to it, each the start of the next. With --after-shipped they went on from what is in the
package now (`--start-from src/ltm/weights/NAME`), whose record is kept before theirs. Writes
src/ltm/weights/NAME/longmem; `ltm ask` loads what lies there for the backbone NAME. Refuses more than 25 MB.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import ltm
from ltm.backbone import load_backbone
from ltm.console import notice
from ltm.facts import machine
from ltm.methods import Method, load_method

WEIGHTS = Path(ltm.__file__).parent / "weights"
MOST_BYTES = 25_000_000
USED_WITH = {"local_window": 1024, "stride": None, "memory_size": 65_536, "segment_size": 512, "pointer_tokens": 512}
"""What may differ in use from how the last run was trained."""

CARD = """# SideNet of LongMem for {name}

{weights:,} weights, stored in int8 with a scale for each row. Trained on {tokens:,} tokens in segments of {segments},
with up to 16,384 remembered ones, on training splits of `books`, `techdocs` and `latex_math`, a third each
(`--exercises`: the share of the text that is `ltm.training.exercises`), {minutes:.0f} minutes on {processor}:

{steps}
{note}
`training_log.jsonl` is the log of these runs, one after another; `train_config.json` their commands and
settings. What it remembers: {remembers}. Evaluation: docs/results.md.

Licence: as the package's. The backbone, SmolLM2-135M-Instruct, is Apache-2.0 (HuggingFaceTB). Texts it was trained on:
public-domain books; Python PEPs (public domain or CC0), Rust RFCs and the Rust book (MIT or Apache-2.0); the Stacks
project (GFDL 1.2). QUESTIONS, where a command has them: every second question of NaturalQuestions-Open with its
passage, as nelson-liu/lost-in-the-middle has them (nq-open-oracle, MIT; the passages are Wikipedia's, CC BY-SA).
"""
REMEMBERS = {True: "its own keys and values (`coupled`)", False: "the backbone's keys and values"}
PATHS = {
    "--data": "DATA",
    "--start-from": "RUN{before}",
    "--out": "RUN{number}",
    "--questions": "QUESTIONS",
    "--collected": "FILE",
}
"""What stands in the card for the paths of a recorded command."""
LOG, RECORD = "training_log.jsonl", "train_config.json"
Run = tuple[dict[str, Any], str]
"""Record (command, tokens, seconds, log_lines, config) and log."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="of these scripts, in order; the last is shipped")
    parser.add_argument("--name", default="smollm2-135m", help="the backbone's name")
    parser.add_argument("--after-shipped", action="store_true", help="the first run began with what is shipped now")
    parser.add_argument("--note", default="", help="what else the card says of the runs")
    arguments = parser.parse_args()
    folder, last = WEIGHTS / arguments.name / "longmem", arguments.runs[-1]
    method = load_method(load_backbone(arguments.name), last, trainable=True, **USED_WITH)
    method.save_pretrained(folder, dtype="int8")
    earlier = read_shipped(folder) if arguments.after_shipped else []
    runs = [*earlier, *(read_run(run, len(earlier) + number) for number, run in enumerate(arguments.runs, start=1))]
    (folder / LOG).write_text("".join(log for _, log in runs))
    (folder / RECORD).write_text(json.dumps([record for record, _ in runs], indent=2) + "\n")
    (folder / "README.md").write_text(card(arguments.name, method, [record for record, _ in runs], arguments.note))
    size = sum(file.stat().st_size for file in folder.iterdir())
    notice(f"{arguments.name}: {size:,} bytes")
    if size > MOST_BYTES:
        raise SystemExit(f"more than {MOST_BYTES:,} bytes; a larger reduction_factor makes it smaller")


def read_run(folder: Path, number: int) -> Run:
    """The record and the log of what a script wrote as run `number` of those that led here."""
    recorded = json.loads((folder / "train_config.json").read_text())
    log = (folder / "log.jsonl").read_text()
    end = [record for record in map(json.loads, log.splitlines()) if record.get("event") == "train"][-1]
    told = {"command": command_of(recorded["command"], number), "tokens": end["tokens"], "seconds": end["seconds"]}
    return {**told, "log_lines": len(log.splitlines()), "config": recorded["config"]}, log


def read_shipped(folder: Path) -> list[Run]:
    """The same of what is shipped."""
    lines = (folder / LOG).read_text().splitlines(keepends=True)
    runs = []
    for record in json.loads((folder / RECORD).read_text()):
        count = record["log_lines"]
        runs.append((record, "".join(lines[:count])))
        lines = lines[count:]
    return runs


def card(name: str, method: Method, recorded: list[dict[str, Any]], note: str) -> str:
    segments = sorted({run["config"]["segment_size"] for run in recorded})
    steps = [f"{n}. `{run['command']}`: {run['tokens']:,} tokens" for n, run in enumerate(recorded, start=1)]
    return CARD.format(
        name=name,
        steps="\n".join(steps),
        tokens=sum(run["tokens"] for run in recorded),
        segments=" and ".join(f"{size:,}" for size in segments),
        note=note and f"\n{note}\n",
        minutes=sum(run["seconds"] for run in recorded) / 60,
        processor=machine()["processor"],
        weights=method.num_trainable,
        remembers=REMEMBERS[method.method_config.coupled],
    )


def command_of(recorded: str, number: int) -> str:
    """A recorded command with names for its paths."""
    script, *options = recorded.split()
    words = ["python", f"benchmarks/{Path(script).name}", *options]
    for place, word in enumerate(words[:-1]):
        if word in PATHS:
            words[place + 1] = PATHS[word].format(before=number - 1, number=number)
    return " ".join(words)


if __name__ == "__main__":
    main()
