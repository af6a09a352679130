"""LongMem learns on a laptop: train a SideNet with and without memory, compare both with the frozen backbone.

Trains on the same stream of the same tokens (books, techdocs, latex_math; training documents), then scores the first
tokens of every test document of each kind in non-overlapping windows of one segment (the paper's protocol):

    python tools/longmem_learns.py --data DATA --out RUN  # DATA/{books,techdocs,latex_math}/{train,test}.jsonl.gz

Writes RUN/longmem, RUN/no_memory (as save_pretrained does) and benchmarks/results/longmem_learns.json, prints a table.
What the package ships goes on from there with exercises among the texts (`ltm.training.exercises`), and so do the
SideNet without memory and the one whose memory is its own, coupled and stale:

    python tools/longmem_learns.py --data DATA --start-from RUN --out RUN2 --exercises 0.25 --tokens 600000 \\
        --learning-rate 5e-4 --runs longmem,no_memory,coupled
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import torch
from common import KINDS, machine, notice, print_table, write_result

from ltm.backbone import Backbone, load_backbone
from ltm.documents import iter_documents
from ltm.malloc import keep_freed_memory
from ltm.methods import Method, create_method, load_method
from ltm.tasks.perplexity import PerplexityResult, perplexity
from ltm.training import Corpus, SegmentStream, TrainConfig, Trainer, exercises, read_log

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
    for name in [] if arguments.eval_only else arguments.runs.split(","):
        notice(f"training {name}: {arguments.tokens:,} tokens")
        train(backbone, arguments, name)
    if not {"longmem", "no_memory"} <= {path.name for path in arguments.out.iterdir()}:
        return  # nothing to compare yet
    results = evaluate(backbone, arguments)
    report(backbone, arguments, results)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with books, techdocs and latex_math")
    parser.add_argument("--out", type=Path, required=True, help="where the two trained SideNets go")
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=1_200_000, help="training tokens of each of the two runs")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--test-tokens", type=int, default=4096, help="first tokens of each test document")
    parser.add_argument("--test-documents", type=int, default=8, help="test documents of each kind")
    parser.add_argument("--runs", default="longmem,no_memory", help=f"which of {', '.join(RUNS)} to train")
    parser.add_argument("--start-from", type=Path, help="what an earlier call wrote; its SideNets are trained on")
    parser.add_argument("--exercises", type=float, default=0.0, help="share of the text that is generated exercises")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the documents and of new weights")
    parser.add_argument("--threads", type=int, help="threads of torch; default: all cores")
    parser.add_argument("--resume", action="store_true", help="go on with runs that were stopped or never begun")
    parser.add_argument("--name", default="longmem_learns", help="of the result file")
    parser.add_argument("--eval-only", action="store_true", help="score what --out already holds")
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


def evaluate(backbone: Backbone, arguments: argparse.Namespace) -> dict[str, dict[str, PerplexityResult]]:
    """Method -> kind -> score, every method on the same tokens in the same windows."""
    window = {"local_window": SEGMENT, "stride": SEGMENT}
    methods: dict[str, Method] = {
        "window": create_method("window", backbone, **window),
        "no_memory": load_method(backbone, arguments.out / "no_memory", **window),
        "longmem": load_method(backbone, arguments.out / "longmem", **window),
    }
    results: dict[str, dict[str, PerplexityResult]] = {name: {} for name in methods}
    for kind in KINDS:
        documents = test_documents(backbone, arguments, kind)
        for name, method in methods.items():
            results[name][kind] = perplexity(method, documents)
            notice(f"{kind}: {name} {results[name][kind].perplexity:.3f}")
    return results


def test_documents(backbone: Backbone, arguments: argparse.Namespace, kind: str) -> list[tuple[str, torch.Tensor]]:
    """The first tokens of the first test documents of a kind."""
    documents = []
    for document in iter_documents(arguments.data / kind / "test.jsonl.gz"):
        if len(documents) == arguments.test_documents:
            break
        text = document.text[: 8 * arguments.test_tokens]
        ids = backbone.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0]
        documents.append((document.name, ids[: arguments.test_tokens]))
    return documents


def training_seconds(run: Path) -> float:
    """Seconds of stepping, from the log of a run."""
    return [record["seconds"] for record in read_log(run / "log.jsonl") if "seconds" in record][-1]


def report(backbone: Backbone, arguments: argparse.Namespace, results: dict[str, dict[str, PerplexityResult]]) -> None:
    """Print the table and write the result file."""
    rows, figures = [], {}
    for kind in KINDS:
        score = {name: by_kind[kind].perplexity for name, by_kind in results.items()}
        against = {
            "longmem against window": score["longmem"] / score["window"] - 1,
            "no memory against window": score["no_memory"] / score["window"] - 1,
            "longmem against no memory": score["longmem"] / score["no_memory"] - 1,
        }
        tokens = results["window"][kind].tokens
        figures[kind] = {"tokens": tokens, "perplexity": score, **against}
        rows.append(
            [
                kind,
                f"{tokens:,}",
                *(f"{value:.3f}" for value in score.values()),
                *(f"{v:+.2%}" for v in against.values()),
            ]
        )
    print_table(["kind", "tokens", *results, "longmem / window", "no memory / window", "longmem / no memory"], rows)
    config = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    for place in ("data", "out", "name"):
        config.pop(place)
    method = load_method(backbone, arguments.out / "longmem")
    write_result(
        arguments.name,
        {
            "config": config,
            "method_config": asdict(method.method_config),
            "training_seconds": {name: training_seconds(arguments.out / name) for name in ("longmem", "no_memory")},
            "dtype": str(backbone.dtype),
            "results": figures,
            "machine": machine(),
        },
    )


if __name__ == "__main__":
    main()
