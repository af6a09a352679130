"""What a SideNet forgets of technical text while it learns LaTeX, plainly and with elastic weight consolidation.

    python benchmarks/measurements/continual.py --data DATA --runs RUNS   # DATA/{techdocs,latex_math}/*.jsonl.gz

For each seed a LongMem SideNet beside SmolLM2-135M is trained on technical documents (stage A) and goes on from there
with LaTeX (stage B) once for each strength, 0 being plain training. After each stage the loss of held-out documents of
both kinds is taken, of the same segments in every run, read in order into a memory of their own. Runs that are whole
are not trained again. Writes benchmarks/results/continual.json.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from pathlib import Path

import torch
from common import machine, notice, print_table, write_result

from ltm.backbone import load_backbone
from ltm.learning import create_learner
from ltm.methods import create_method
from ltm.training import Corpus, SegmentStream, TrainConfig, Trainer, Validation, read_log

KINDS = ("techdocs", "latex_math")
SEGMENT = 256
METHOD = {"reduction_factor": 6, "memory_layer": 18, "chunk_size": 2, "retrieved_tokens": 32, "memory_size": 4096}
METHOD |= dict.fromkeys(("segment_size", "local_window", "stride"), SEGMENT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with techdocs and latex_math")
    parser.add_argument("--runs", type=Path, required=True, help="where the runs go")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30, help="of each stage")
    parser.add_argument("--rows", type=int, default=2, help="of 256 tokens in each step")
    parser.add_argument("--test-segments", type=int, default=3, help="of 3 documents of each kind, 256 tokens each")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--strengths", default="0,10,1000", help="of EWC, with commas; 0 is plain training")
    parser.add_argument("--fisher-batches", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    strengths = [float(word) for word in arguments.strengths.split(",")]
    started = time.process_time()
    results = [seed_results(arguments, seed, strengths) for seed in range(arguments.seeds)]
    rows = [row(seed, strength, *found[strength]) for seed, found in enumerate(results) for strength in found]
    print_table(["seed", "strength", "A after A", "A after B", "forgotten", "B after A", "B after B"], rows)
    config = {name: value for name, value in vars(arguments).items() if name not in ("data", "runs")}
    figures = [{str(strength): found for strength, found in by_strength.items()} for by_strength in results]
    facts = {"config": {**config, "method": METHOD}, "machine": machine(), "cpu_minutes": cpu_minutes(started)}
    write_result("continual", {**facts, "kinds": KINDS, "losses_after_each_stage": figures})


def seed_results(arguments: argparse.Namespace, seed: int, strengths: list[float]) -> dict[float, list[list[float]]]:
    """By strength: after each stage the loss of both kinds, nats per token."""
    first = arguments.runs / f"seed-{seed}" / "A"
    train(arguments, seed, 0.0, first, stages=1)
    found = {}
    for strength in strengths:
        out = first.with_name(f"strength-{strength:g}")
        if not out.exists():
            partial = out.with_suffix(".partial")  # a copy that was cut off is no run
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(first, partial)
            partial.rename(out)
        train(arguments, seed, strength, out, stages=2)
        evaluations = [record for record in read_log(out / "log.jsonl") if record["event"] == "eval"]
        found[strength] = [[math.log(record[f"perplexity/{kind}"]) for kind in KINDS] for record in evaluations[1:]]
    return found


def train(arguments: argparse.Namespace, seed: int, strength: float, out: Path, stages: int) -> None:
    """A run of one or both stages; one that has a checkpoint goes on from it."""
    if (out / "done").exists() and int((out / "done").read_text()) >= stages:
        return
    notice(f"{out}: stage {stages}")
    backbone = load_backbone("smollm2-135m")
    torch.manual_seed(seed)
    method = create_method("longmem", backbone, start="identity", **METHOD)
    config = TrainConfig(
        batch_rows=arguments.rows,
        segment_size=SEGMENT,
        max_document_tokens=2048,
        learning_rate=arguments.learning_rate,
        warmup_steps=5,
        schedule="constant",
        max_steps=arguments.steps,
        seed=seed,
        log_every=5,
        eval_every=arguments.steps,
    )
    corpora = [Corpus.from_paths([arguments.data / kind / "train.jsonl.gz"]) for kind in KINDS[:stages]]
    streams = [SegmentStream.from_config(corpus, backbone.tokenizer, config) for corpus in corpora]
    held_out = Corpus.from_paths([arguments.data / kind / "validation.jsonl.gz" for kind in KINDS])
    held_out.kind_names = list(KINDS)
    sizes = {"segment_size": SEGMENT, "documents_per_kind": 3, "segments_per_document": arguments.test_segments}
    check = Validation(held_out, backbone.tokenizer, **sizes)
    learner = create_learner("ewc", strength=strength, fisher_batches=arguments.fisher_batches if strength else 1)
    trainer = Trainer(method, streams, config, out, check, learner=learner, plot=False)
    trainer.train(resume=any((out / "checkpoints").glob("step-*")))
    (out / "done").write_text(str(stages))


def row(seed: int, strength: float, after_a: list[float], after_b: list[float]) -> list[str]:
    losses = [after_a[0], after_b[0], after_b[0] - after_a[0], after_a[1], after_b[1]]
    return [str(seed), f"{strength:g}", *(f"{loss:.4f}" for loss in losses)]


def cpu_minutes(started: float) -> float:
    """Of this call alone; runs that an earlier one had finished took theirs."""
    return round((time.process_time() - started) / 60, 1)


if __name__ == "__main__":
    main()
