"""What RMT's memory tokens carry on a frozen backbone: one word, over the border of a segment.

A document is two segments: a sentence that names a word and goes on with something else, and one that asks for it
again. The sentence after the word is another one in training and in the test. Measured are nats and rank of the word
where it is asked for: by the backbone that sees both segments, by a window of the second alone, and by RMT with its
memory and without, trained with gradients through both segments (as `ltm train --method rmt --backprop-segments 2`
does), or with 1 through one alone.

    python benchmarks/measurements/rmt_recall.py --steps 300
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from common import machine, print_table, write_result
from torch import Tensor

from ltm.backbone import Backbone, load_backbone
from ltm.data.documents import Document
from ltm.methods import create_method
from ltm.training import Corpus, SegmentStream, TrainConfig, Trainer
from ltm.training.log import LOG_FILE, read_log

WORDS = ("red", "blue", "green", "gold", "black", "white", "pink", "gray", "brown", "silver")
FIRST, SECOND = "The word to remember is {word}.", " The word to remember was {word}."
AFTER = (
    " Now something else comes.",
    " Then the rain came.",
    " The door was open.",
    " Nobody knew him well.",
    " She went home alone.",
    " They came back late.",
    " The train was late.",
    " It was very quiet.",
)
HELD_OUT = 2
"""Of the sentences, the last so many are for the test."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--memory-tokens", type=int, default=4)
    parser.add_argument("--lora-rank", type=int, default=8)
    parser.add_argument("--backprop-segments", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1e-3)
    arguments = parser.parse_args()
    backbone, started = load_backbone(arguments.backbone), time.perf_counter()
    segments = dict(segments_of(backbone))
    size = len(next(iter(segments.values()))[0])
    assert all(len(first) == size for first, _ in segments.values()), "a document is cut where its first segment ends"
    rmt = create_method(
        "rmt",
        backbone,
        memory_tokens=arguments.memory_tokens,
        local_window=size,
        lora_rank=arguments.lora_rank,
    )
    log = train(rmt, backbone, segments, size, arguments)
    held_out = {key: pair for key, pair in segments.items() if key[1] in AFTER[-HELD_OUT:]}
    choices = torch.tensor([backbone.tokenizer(f" {word}").input_ids[0] for word in WORDS])
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "both segments in sight": lambda first, second: backbone.model(torch.cat((first, second))[None]).logits[0],
        "window of the second": lambda first, second: backbone.model(second[None]).logits[0],
        "rmt without its memory": lambda first, second: scores(rmt, None, second),
        "rmt with its memory": lambda first, second: scores(rmt, first, second),
    }
    rows = [{"way": way, **asked(score, held_out, choices)} for way, score in ways.items()]
    print_table(
        ("", "nats of the word", "right of ten", "nats among the ten"),
        [(row["way"], f"{row['nats']:.2f}", f"{row['right']:.2f}", f"{row['nats_among']:.2f}") for row in rows],
    )
    figures = {"seconds": time.perf_counter() - started, "rows": rows, "loss_by_step": log}
    write_result(
        f"rmt_recall_{arguments.backprop_segments}",
        {"machine": machine(), "settings": vars(arguments), "segment_size": size, **figures},
    )


def segments_of(backbone: Backbone) -> Iterator[tuple[tuple[str, str], tuple[Tensor, Tensor]]]:
    """By word and sentence after it: token ids of both segments."""
    for after in AFTER:
        for word in WORDS:
            texts = FIRST.format(word=word) + after, SECOND.format(word=word)
            first, second = (torch.tensor(backbone.tokenizer(text).input_ids) for text in texts)
            yield (word, after), (first, second)


def train(rmt: Any, backbone: Backbone, segments: Any, size: int, arguments: Any) -> list[float]:
    """Teach memory tokens and LoRA; the loss of each step."""
    texts = [
        Document(f"{word}{after}", FIRST.format(word=word) + after + SECOND.format(word=word), "")
        for word, after in segments
        if after not in AFTER[-HELD_OUT:]
    ]
    config = TrainConfig(
        batch_rows=8,
        segment_size=size,
        backprop_segments=arguments.backprop_segments,
        learning_rate=arguments.rate,
        warmup_steps=20,
        weight_decay=0.001,
        max_steps=arguments.steps,
        eval_every=None,
        save_every_minutes=None,
    )
    stream = SegmentStream.from_config(Corpus([texts]), backbone.tokenizer, config)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(rmt, stream, config, Path(folder) / "rmt", plot=False).train()
        return [record["loss"] for record in read_log(Path(folder) / "rmt" / LOG_FILE) if "loss" in record]


def scores(rmt: Any, first: Tensor | None, second: Tensor) -> Tensor:
    """Logits [tokens, vocab] of the second segment after the first was read; first None: memory is off."""
    memory = None if first is None else rmt.new_memory()
    if first is not None:
        rmt.read(first[None], memory=memory)
    return rmt(second[None], memory=memory).logits[0]


@torch.no_grad()
def asked(score: Callable[[Tensor, Tensor], Tensor], segments: Any, choices: Tensor) -> dict[str, float]:
    """Means over documents: nats of the word, how often it is the likeliest of the ten, and its nats among them."""
    nats, right, among = [], [], []
    for first, second in segments.values():
        logits = score(first, second)[-3].float()  # before the word and the full stop
        nats.append(float(-logits.log_softmax(dim=-1)[second[-2]]))
        own = int((choices == second[-2]).nonzero())
        right.append(float(int(logits[choices].argmax()) == own))
        among.append(float(-logits[choices].log_softmax(dim=-1)[own]))
    return {"nats": _mean(nats), "right": _mean(right), "nats_among": _mean(among), "documents": len(nats)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
