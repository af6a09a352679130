"""Fit the pointer of a trained SideNet to what it retrieves: collected once, learned from in small shuffled batches.

    python tools/fit_pointer.py --data DATA --start-from RUN2 --out RUN3  # a quarter of an hour
    python tools/fit_pointer.py --data DATA --start-from RUN3 --out RUN4 --questions QUESTIONS

QUESTIONS is a JSON lines file as lost_in_the_middle/nq-open-oracle.jsonl.gz: question, answers, ctxs with one passage
each. Every second row of it is taken (the even ones, counted from 0); the others stay unseen.

A pointer sees one place of one document at a time, and its networks are small: what they need is many steps on many
texts, not passes through the backbone. So training texts (and exercises, and questions) are read once in segments of
1,024, as in use, and of every token it is kept what the pointer looks at: similarities, runs and next tokens of what it
retrieved, the SideNet's output, the model's log-probabilities. Two passes over that, in batches of 512 tokens of all
texts, fit all of the pointer but its search. The last tenth of what was collected is held out and scored before and
after.

Writes what `train_sidenet.py` writes of a run: the method, log.jsonl, train_config.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from train_sidenet import MEMORY_SIZE, corpus_of

from ltm.backbone import load_backbone
from ltm.console import notice
from ltm.methods import load_method
from ltm.methods.attention.longmem import LongMem
from ltm.methods.attention.longmem.pointer import Copies, Pointer, Words
from ltm.methods.loss import token_losses
from ltm.tasks.data import DataSource
from ltm.training import Answered, Corpus, SegmentStream, question_documents

NAME = "longmem"
SEGMENT, BATCH = 1024, 512
NUM_QUESTION_DOCUMENTS = 64
LONGEST_PASSAGE = 700
"""Characters; a few in a hundred are longer."""
SEARCH = ("query", "center", "spread", "share")
"""What decides what is retrieved, and stays."""
COLLECTED_BY = (
    "data",
    "start_from",
    "backbone",
    "tokens",
    "exercises",
    "questions",
    "questions_share",
    "pointer_tokens",
    "workers",
    "seed",
)
"""Settings that decide what is collected."""
Seen = dict[str, Tensor]
"""What the pointer looks at, by name, [tokens, ...]."""


class Recorder(Pointer):
    """A pointer that notes what it looks at."""

    seen: Seen

    def mix(self, logits: Tensor, hidden: Tensor, copies: Copies, trust: float = 0.0) -> tuple[Tensor, Tensor]:
        self.logits = logits[:, :-1]
        return super().mix(logits, hidden, copies, trust)

    def gains(
        self,
        words: Words,
        log_model: Tensor,
        hidden: Tensor,
        copies: Copies,
        trust: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        noted = {
            "similarity": copies.similarity,
            "next_ids": copies.next_ids.int(),
            "runs": copies.runs.to(torch.int8),
            "log_model": log_model.half(),
            "hidden": hidden.bfloat16(),
        }
        self.seen = {name: tensor[0, :-1].clone() for name, tensor in noted.items()}
        return super().gains(words, log_model, hidden, copies, trust)

    def answered(self, targets: Tensor) -> Seen:
        """What was seen, with the tokens that came, int64 [tokens], and their log-probabilities under the model."""
        losses, _ = token_losses(self.logits, targets[None])
        return {**self.seen, "targets": targets, "log_target": -losses[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with books, techdocs and latex_math")
    parser.add_argument("--start-from", type=Path, required=True, help="what an earlier run wrote")
    parser.add_argument("--out", type=Path, required=True, help="where the fitted SideNet goes, as longmem")
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=300_000, help="to collect")
    parser.add_argument("--exercises", type=float, default=0.25, help="share of the text that is generated exercises")
    parser.add_argument("--questions", type=Path, help="JSON lines of questions on passages, to be among the text")
    parser.add_argument("--questions-share", type=float, default=0.15, help="their share of the text")
    parser.add_argument("--pointer-tokens", type=int, help="tokens to look at and to be used with; default: as it was")
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument(
        "--collected", type=Path, help="file for what is collected; if it is there, it is taken instead"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that collect, one thread each")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    parts, collecting = collected(arguments)
    started = time.monotonic()
    held = [len(part["targets"]) // 10 for part in parts]
    learned = {name: torch.cat([p[name][:-h] for p, h in zip(parts, held, strict=True)]) for name in parts[0]}
    held_out = {name: torch.cat([p[name][-h:] for p, h in zip(parts, held, strict=True)]) for name in parts[0]}
    tokens = len(learned["targets"])
    method = load(arguments)
    assert method.sidenet.pointer is not None
    before = score(method.sidenet.pointer, held_out)
    logged = fit(method.sidenet.pointer, learned, arguments)
    after = score(method.sidenet.pointer, held_out)
    notice(f"{tokens:,} tokens; held out: {before:.4f} nats before, {after:.4f} after")
    out = arguments.out / NAME
    out.mkdir(parents=True, exist_ok=True)
    method.save_pretrained(out)
    end = {"event": "train", "tokens": tokens, "seconds": collecting + time.monotonic() - started}
    lines = [*logged, {**end, "step": logged[-1]["step"], "loss": logged[-1]["loss"], "held_out": [before, after]}]
    (out / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = {name: getattr(arguments, name) for name in ("exercises", "passes", "learning_rate", "seed")}
    if arguments.questions is not None:
        config["questions_share"] = arguments.questions_share
    config |= {"segment_size": SEGMENT, "batch_tokens": BATCH, "max_document_tokens": MEMORY_SIZE}
    record = {"command": shlex.join(sys.argv), "config": config}
    (out / "train_config.json").write_text(json.dumps(record, indent=2) + "\n")


def load(arguments: argparse.Namespace) -> LongMem:
    options = {"memory_size": MEMORY_SIZE, **dict.fromkeys(("segment_size", "local_window", "stride"), SEGMENT)}
    if arguments.pointer_tokens:
        options["pointer_tokens"] = arguments.pointer_tokens
    backbone = load_backbone(arguments.backbone)
    method = load_method(backbone, arguments.start_from / NAME, trainable=True, **options)
    assert isinstance(method, LongMem)
    return method


def collected(arguments: argparse.Namespace) -> tuple[list[Seen], float]:
    """The workers' parts, collected now or before, and how many seconds that took. Refuses a file of other settings."""
    file: Path | None = arguments.collected
    asked = {name: str(getattr(arguments, name)) for name in COLLECTED_BY}
    if file is not None and file.exists():
        found = torch.load(file)
        if found["settings"] != asked:
            raise SystemExit(f"{file} was collected with {found['settings']}, not {asked}; name another file")
        return found["parts"], found["seconds"]
    started = time.monotonic()
    with ProcessPoolExecutor(arguments.workers) as pool:
        parts = list(pool.map(partial(collect, arguments), range(arguments.workers)))
    seconds = time.monotonic() - started
    if file is not None:
        scratch = file.with_suffix(".part")
        torch.save({"settings": asked, "parts": parts, "seconds": seconds}, scratch)
        scratch.replace(file)
    return parts, seconds


def collect(arguments: argparse.Namespace, worker: int) -> Seen:
    """This worker's part of the tokens, in the order of its documents."""
    torch.set_num_threads(1)
    method = load(arguments).eval()
    view, pointer = method.backbone.view, method.sidenet.pointer
    assert pointer is not None
    recorder = Recorder(view.num_kv_heads, view.head_dim, view.hidden_size)
    recorder.load_state_dict(pointer.state_dict())
    method.sidenet.pointer = recorder
    corpus, weights = texts_of(arguments)
    sizes = {"segment_size": SEGMENT, "max_document_tokens": MEMORY_SIZE}
    stream = SegmentStream(
        corpus, method.backbone.tokenizer, rows=1, weights=weights, seed=arguments.seed + worker, **sizes
    )
    parts: list[Seen] = []
    wanted, taken, reported = arguments.tokens // arguments.workers, 0, 0
    while taken < wanted:
        batch = next(stream)
        if bool(batch.starts.any()):
            method.reset()
        remembers = method.bank is not None and method.bank.num_tokens(0) > 0
        with torch.no_grad():
            method(batch.input_ids, attention_mask=batch.attention_mask, remember=True)
        if remembers and batch.num_tokens == batch.input_ids.shape[1] > 1:
            parts.append(recorder.answered(batch.input_ids[0, 1:]))
            taken += len(parts[-1]["targets"])
        if worker == 0 and taken >= reported + wanted // 20:
            reported = taken
            notice(f"collected {taken * arguments.workers:,} of {arguments.tokens:,} tokens")
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def texts_of(arguments: argparse.Namespace) -> tuple[Corpus, list[float]]:
    """Training documents of each kind, exercises and questions, with the share of each in the text."""
    corpus, weights = corpus_of(arguments)
    if arguments.questions is None:
        return corpus, weights
    share = arguments.questions_share
    documents = question_documents(read_questions(arguments.questions), NUM_QUESTION_DOCUMENTS)
    return corpus.joined("questions", documents), [*(weight * (1 - share) for weight in weights), share]


def read_questions(file: Path) -> list[Answered]:
    """Every second row, but for those whose passage is long or lacks all answers."""
    rows = DataSource(file.parent.parent).json_lines(file.parent.name, file.name)
    found = []
    for row in islice(rows, 0, None, 2):
        passage = " ".join(row["ctxs"][0]["text"].split())
        answer = next((answer for answer in row["answers"] if answer in passage), None)
        if answer is not None and len(passage) <= LONGEST_PASSAGE:
            found.append(Answered(passage, row["question"], answer))
    return found


def losses(pointer: Pointer, seen: Seen) -> Tensor:
    """Nats of each target under the mixture, [tokens]."""
    copies = pointer.weighed(seen["similarity"][None], seen["next_ids"].long()[None], seen["runs"].long()[None])
    words, hidden, log_model = Words(copies.next_ids), seen["hidden"][None], seen["log_model"].float()[None]
    gains, _ = pointer.gains(words, log_model, hidden, copies)
    there = words.ids >= 0
    grown = (log_model.exp() * gains.expm1()).where(there, 0.0).sum(dim=-1)
    gained = gains.where(words.ids == seen["targets"][None, :, None], 0.0).sum(dim=-1)
    return -(seen["log_target"] + gained[0] - grown[0].log1p())


@torch.no_grad()
def score(pointer: Pointer, seen: Seen) -> float:
    count = len(seen["targets"])
    parts = [losses(pointer, {n: t[i : i + BATCH] for n, t in seen.items()}) for i in range(0, count, BATCH)]
    return float(torch.cat(parts).mean())


def fit(pointer: Pointer, seen: Seen, arguments: argparse.Namespace) -> list[dict]:
    """Adam with a rate that falls in a straight line; the log's records."""
    torch.manual_seed(arguments.seed)
    trained = [parameter for name, parameter in pointer.named_parameters() if name not in SEARCH]
    optimizer = torch.optim.Adam(trained, lr=arguments.learning_rate, betas=(0.9, 0.98))
    count = len(seen["targets"])
    steps, logged, recent = arguments.passes * (count // BATCH), [], []
    for step in range(steps):
        at = step % (count // BATCH)
        if at == 0:
            order = torch.randperm(count)
        optimizer.param_groups[0]["lr"] = rate = arguments.learning_rate * max(1 - step / steps, 0.02)
        chosen = order[at * BATCH : (at + 1) * BATCH]
        loss = losses(pointer, {name: tensor[chosen] for name, tensor in seen.items()}).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recent.append(float(loss.detach()))
        if (step + 1) % 50 == 0 or step + 1 == steps:
            logged.append({"event": "fit", "step": step + 1, "loss": sum(recent) / len(recent), "lr": rate})
            recent = []
    return logged


if __name__ == "__main__":
    main()
