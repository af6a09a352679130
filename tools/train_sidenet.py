"""Train LongMem's SideNet, and what it is compared with, on books, technical documents and LaTeX.

    python tools/train_sidenet.py --data DATA --out RUN        # DATA/{books,techdocs,latex_math}/train.jsonl.gz

Writes RUN/longmem and RUN/no_memory, as save_pretrained does: the same SideNet trained on the same tokens with a memory
and without. What the package ships goes on from there with exercises among the texts (`ltm.training.exercises`), and so
do the SideNet without memory and the one whose memory is its own, coupled and stale:

    python tools/train_sidenet.py --data DATA --start-from RUN --out RUN2 --exercises 0.25 --tokens 600000 \\
        --learning-rate 5e-4 --runs longmem,no_memory,coupled
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ltm.backbone import Backbone, load_backbone
from ltm.console import notice
from ltm.malloc import keep_freed_memory
from ltm.methods import create_method, load_method
from ltm.training import Corpus, SegmentStream, TrainConfig, Trainer, exercises

KINDS = ("books", "techdocs", "latex_math")
SEGMENT = 512
RUNS: dict[str, dict[str, bool]] = {
    "longmem": {},
    "no_memory": {"use_memory": False, "pointer": False},
    "coupled": {"coupled": True},
}
STARTS = {"longmem": ["longmem"], "no_memory": ["no_memory"], "coupled": ["coupled", "longmem"]}
"""Which run of --start-from each goes on from, the first that is there."""
NUM_EXERCISES = 64
MEMORY_SIZE = 16_384
"""In training: tokens remembered, and the longest stretch of a document."""
OPTIONS = {
    "reduction_factor": 6,
    "memory_layer": 18,
    "chunk_size": 2,
    "retrieved_tokens": 32,
    "start": "identity",
}


def main() -> None:
    arguments = parse()
    keep_freed_memory()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    backbone = load_backbone(arguments.backbone)
    for name in arguments.runs.split(","):
        notice(f"training {name}: {arguments.tokens:,} tokens")
        train(backbone, arguments, name)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with books, techdocs and latex_math")
    parser.add_argument("--out", type=Path, required=True, help="where the two trained SideNets go")
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=1_200_000, help="training tokens of each of the two runs")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--runs", default="longmem,no_memory", help=f"which of {', '.join(RUNS)} to train")
    parser.add_argument("--start-from", type=Path, help="what an earlier call wrote; its SideNets are trained on")
    parser.add_argument("--exercises", type=float, default=0.0, help="share of the text that is generated exercises")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the documents and of new weights")
    parser.add_argument("--threads", type=int, help="threads of torch; default: all cores")
    parser.add_argument("--resume", action="store_true", help="go on with runs that were stopped or never begun")
    return parser.parse_args()


def train(backbone: Backbone, arguments: argparse.Namespace, name: str) -> None:
    """One run; with the same seed both see the same segments in the same order."""
    config = TrainConfig(
        batch_rows=arguments.rows,
        segment_size=SEGMENT,
        max_document_tokens=MEMORY_SIZE,
        learning_rate=arguments.learning_rate,
        warmup_steps=20,
        max_tokens=arguments.tokens,
        precision="bf16" if backbone.dtype == torch.bfloat16 else "fp32",
        seed=arguments.seed,
        log_every=10,
        eval_every=None,
        save_every_minutes=10.0,
    )
    corpus, weights = corpus_of(arguments)
    stream = SegmentStream.from_config(corpus, backbone.tokenizer, config, weights=weights)
    torch.manual_seed(arguments.seed)
    sizes = dict.fromkeys(("segment_size", "local_window", "stride"), SEGMENT)
    options = {"memory_size": MEMORY_SIZE, **sizes, **RUNS[name]}
    if arguments.start_from is None:
        method = create_method("longmem", backbone, **options, **OPTIONS)
    else:
        starts = [arguments.start_from / start for start in STARTS[name]]
        start = next((path for path in starts if path.exists()), starts[-1])
        method = load_method(backbone, start, trainable=True, **options)
    begun = any((arguments.out / name / "checkpoints").glob("*"))
    Trainer(method, stream, config, arguments.out / name).train(resume=arguments.resume and begun)


def corpus_of(arguments: argparse.Namespace) -> tuple[Corpus, list[float]]:
    """Training documents of each kind with the share of each in the text, and exercises made of them."""
    corpus = Corpus.from_paths([arguments.data / kind / "train.jsonl.gz" for kind in KINDS])
    shares = [(1 - arguments.exercises) / len(KINDS)] * len(KINDS)
    if not arguments.exercises:
        return corpus, shares
    made = exercises([document.text for document in corpus], NUM_EXERCISES)
    return corpus.joined("exercises", made), [*shares, arguments.exercises]


if __name__ == "__main__":
    main()
