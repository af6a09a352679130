"""What `ltm demo` does and shows, step by step; everything is measured in that run."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text
from torch import Tensor

from ltm.backbone import Backbone
from ltm.cli.read import ReadBar
from ltm.cli.reference_text import language_reference
from ltm.configs import INSTRUCTION
from ltm.console import (
    format_bytes,
    make_progress,
    make_table,
    notices,
    shown,
)
from ltm.data.documents import Document
from ltm.data.passages import Passage
from ltm.data.tokens import token_blocks, token_ids
from ltm.errors import LtmError
from ltm.methods import Reader, create_method
from ltm.streams.scoring import score_stream
from ltm.tasks.perplexity import DocumentScore, PerplexityResult
from ltm.text.session import Session

NAME = "python language reference"
HELD_OUT_TOKENS = 2048
"""Tokens after what was read, on which every method is scored."""
LEAST_TOKENS = 4096
"""The document is cut to fit the time, but to no fewer tokens."""
TIME_SECONDS = 200.0
"""Reading and scoring should take about so long; the rest is loading."""
NUM_CUES, CUE_TOKENS = 8, 48
"""Places in what was read at which the text is begun again, to see whether memory knows how it goes on."""
CUE = "object.__length_hint__(self)\n\n   Called to implement"
"""What the generated continuation starts from; it occurs in the data model of every Python."""
NEW_TOKENS = 48


NUM_QUESTIONS, QUESTION_SEED = 6, 0
_CALLED = re.compile(
    r"^object\.(?P<name>__\w+__)\([^\n]*\)\s+Called (?P<what>(?:to|when|by|at) [^.,;()]{12,90}?)(?=[.,;])", re.M
)
"""How the reference says what a special method is for."""


@dataclass
class Figures:
    """What the demo measured; printed as tables or as JSON."""

    backbone: str
    local_window: int
    read_tokens: int = 0
    read_tokens_per_second: float = 0.0
    bank_bytes: int = 0
    bytes_per_token: float = 0.0
    held_out: dict[str, dict[str, Any]] = field(default_factory=dict)
    recall: dict[str, float] = field(default_factory=dict)
    cue: str = ""
    continuations: dict[str, str] = field(default_factory=dict)
    passages: list[Passage] = field(default_factory=list)
    questions: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


class Demo:
    """The steps of the demo; each fills in a part of `figures`."""

    def __init__(self, session: Session, tokens: int, figures: Figures):
        self.session, self.figures = session, figures
        self.backbone: Backbone = session.method.backbone
        text = language_reference()
        self.past = cut_text(session.tokenizer, text, self._affordable(session.tokenizer, text, tokens))
        self.past_ids = token_ids(session.tokenizer, self.past)
        self.held_out = token_ids(session.tokenizer, text[len(self.past) :])[:HELD_OUT_TOKENS]
        config = session.method.method_config  # the same window and stride for both, or the comparison says nothing
        self.window = create_method("window", self.backbone, local_window=config.local_window, stride=config.stride)

    def views(self) -> Iterator[tuple[RenderableType, ...]]:
        """What each step shows, once it is done."""
        yield (_start(self),)
        for step, view in (
            (self.read, _read_line),
            (self.score, _score_table),
            (self.recall, _recall_line),
            (self.generate, _answers),
            (self.ask, _questions_table),
        ):
            step()
            yield view(self.figures), ""

    def _affordable(self, tokenizer: Any, text: str, wanted: int) -> int:
        """Tokens that fit TIME_SECONDS, from the time that reading a little takes."""
        ids = next(token_blocks(tokenizer, text, 1024)).ids[None]
        self.session.method.read(ids[:, :512])  # the first pass of a process is slower
        started = time.perf_counter()
        self.session.method.read(ids)
        rate = ids.shape[1] / (time.perf_counter() - started)
        self.session.method.reset()
        scored = 2 * HELD_OUT_TOKENS + (self.backbone.view.max_positions or 0) + 2 * NUM_CUES * 2 * CUE_TOKENS
        fitting = rate * TIME_SECONDS - 1.5 * scored  # scoring a token costs about 1.5 of reading it
        return max(min(wanted, int(fitting)), LEAST_TOKENS)

    def read(self) -> None:
        """The document into memory."""
        started = time.perf_counter()
        with make_progress() as progress:
            bar = ReadBar(progress, len(self.past))
            bar.start(Document(NAME, self.past, ""))
            info = self.session.read(self.past, NAME, progress=bar.update)
        bank = self.session.method.bank
        assert bank is not None
        self.figures.read_tokens = info.num_tokens
        self.figures.read_tokens_per_second = info.num_tokens / (time.perf_counter() - started)
        self.figures.bank_bytes = bank.nbytes
        self.figures.bytes_per_token = bank.nbytes / max(bank.num_tokens(0), 1)

    def score(self) -> None:
        """Perplexity of the text that follows, which nobody has read."""
        window, read = self.figures.local_window, self.figures.read_tokens
        self._score("window", self.window, f"up to {window:,} tokens before it")
        self._score("longmem", self.session.method, f"the same and a memory of {read:,} tokens")
        limit = self.backbone.view.max_positions
        if limit is None or limit > len(self.held_out):
            full = create_method("full", self.backbone)
            room = len(self.past_ids) if limit is None else min(limit - len(self.held_out), len(self.past_ids))
            label = f"the last {room:,} tokens read, all since" if room < len(self.past_ids) else "everything"
            self._score("full", full, label, self.past_ids[-room:])
            full.reset()

    def _score(self, name: str, method: Reader, sees: str, past: Tensor | None = None) -> None:
        started = time.perf_counter()
        with make_progress() as progress:
            total = len(self.held_out) + (0 if past is None else len(past))
            task = progress.add_task(f"scoring: {name}", total=total)
            for piece in () if past is None else past.split(1024):
                method.read(piece[None].to(method.device))
                progress.advance(task, len(piece))
            losses = score_stream(method, self.held_out, progress=lambda count: progress.advance(task, count))
        seconds = time.perf_counter() - started
        perplexity = PerplexityResult([DocumentScore(NAME, losses)], seconds).perplexity
        self.figures.held_out[name] = {
            "sees": sees,
            "perplexity": perplexity,
            "tokens": len(losses),
            "seconds": seconds,
        }

    def recall(self) -> None:
        """Perplexity of stretches that were read, each begun again with a cue."""
        places = torch.linspace(0, len(self.past_ids) - 2 * CUE_TOKENS, NUM_CUES + 2)[1:-1].long()
        stretches = [self.past_ids[place : place + 2 * CUE_TOKENS] for place in places]
        with notices.status("recalling what was read"):
            for name, method in (("window", self.window), ("longmem", self.session.method)):
                losses = [score_stream(method, stretch)[CUE_TOKENS - 1 :] for stretch in stretches]
                scores = [DocumentScore(NAME, loss) for loss in losses]
                self.figures.recall[name] = PerplexityResult(scores, 0.0).perplexity

    def generate(self) -> None:
        """A continuation with and without the memory, and what really follows."""
        cue = CUE if CUE in self.past else self.past[: len(self.past) // 2].rpartition("\n\n")[2][:60]
        after = self.past.index(cue) + len(cue)
        options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "repetition_penalty": 1.1}
        with notices.status("generating"):
            plain = Session(self.window, self.session.tokenizer).continue_text(cue, **options)
            with_memory = self.session.continue_text(cue, trace=True, **options)
        self.figures.cue = cue
        self.figures.continuations = {
            "window": plain.text,
            "longmem": with_memory.text,
            "text": self.past[after : after + 200],
        }
        self.figures.passages = with_memory.passages

    def ask(self) -> None:
        """Questions about what was read, drawn by a seed, with all that remembers it and with nothing."""
        asked = questions_about(self.past, NUM_QUESTIONS, QUESTION_SEED)
        with notices.status("answering questions"):
            for question, answer in asked:
                made, plain = (
                    self.session.ask(question, recall=recall, instruction=INSTRUCTION, max_new_tokens=NEW_TOKENS)
                    for recall in ("both", "off")
                )
                found = [place for place, passage in enumerate(made.found, 1) if answer in passage.text]
                self.figures.questions.append(
                    {
                        "question": question,
                        "answer": answer,
                        "with_memory": made.text,
                        "without": plain.text,
                        "passage": found[0] if found else None,
                    }
                )


def questions_about(text: str, count: int, seed: int) -> list[tuple[str, str]]:
    """Questions on a stretch of the reference with their answers, made of what it says of special methods and drawn by
    a seed.

    >>> questions_about("object.__len__(self)\\n\\n   Called to implement the built-in function.", 1, 0)
    [('Which method is called to implement the built-in function?', '__len__')]
    """
    said = {" ".join(match["what"].split()): match["name"] for match in _CALLED.finditer(text)}
    asked = [(f"Which method is called {what}?", name) for what, name in said.items() if what.count('"') % 2 == 0]
    return random.Random(seed).sample(asked, min(count, len(asked)))


def check_tokens(tokens: int) -> None:
    """Refuse a document too short to say anything."""
    if tokens < LEAST_TOKENS:
        raise LtmError(f"tokens={tokens}; use {LEAST_TOKENS} or more")


def cut_text(tokenizer: Any, text: str, tokens: int) -> str:
    """The start of a text, of about `tokens` tokens, cut between two paragraphs."""
    end = next(token_blocks(tokenizer, text, tokens)).end
    paragraph = text.rfind("\n\n", 0, end)
    return text[: paragraph + 2] if paragraph > 0 else text[:end]


def _start(demo: Demo) -> Text:
    trained, view = demo.session.method, demo.backbone.view
    weights = sum(tensor.numel() for tensor in trained.trained_state().values())
    return Text.assemble(
        (shown(demo.figures.backbone), "bold"),
        f", frozen: {view.num_layers} layers, hidden size {view.hidden_size}; "
        f"beside it {weights:,} trained weights that read its memory.\n"
        f"The document: the language reference of this Python (pydoc_data.topics), its first {len(demo.past_ids):,} "
        f"tokens, cut to what this machine can do in a few minutes.\n",
    )


def _read_line(figures: Figures) -> RenderableType:
    return Text.from_markup(
        f"[bold green]read[/] {figures.read_tokens:,} tokens at {figures.read_tokens_per_second:,.0f} tokens/s; "
        f"the memory takes {format_bytes(figures.bank_bytes)}, {figures.bytes_per_token:,.0f} bytes a token"
    )


def _score_table(figures: Figures) -> RenderableType:
    base, rows = figures.held_out["window"]["perplexity"], []
    for name, found in figures.held_out.items():
        change = "" if name == "window" else f"{found['perplexity'] / base - 1:+.1%}"
        row = [name, found["sees"], f"{found['perplexity']:.2f}", change, f"{found['seconds']:.0f} s"]
        rows.append([Text(cell, style="bold green" if name == "longmem" else "") for cell in row])
    tokens = figures.held_out["window"]["tokens"]
    title = f"Perplexity of the {tokens:,} tokens that follow, which were not read"
    return make_table(title, ("method", "sees of the past", "perplexity", "to window", "time"), rows, left=2)


def _recall_line(figures: Figures) -> RenderableType:
    window, with_memory = figures.recall["window"], figures.recall["longmem"]
    return Text.from_markup(
        f"[bold green]recall[/] at {NUM_CUES} places that were read, given {CUE_TOKENS} tokens, the next {CUE_TOKENS} "
        f"have perplexity {with_memory:.2f} with memory, {window:.2f} with the window alone "
        f"({with_memory / window - 1:+.1%})"
    )


def _answers(figures: Figures) -> RenderableType:
    titles = {"window": "window alone", "longmem": "longmem", "text": "what the document says"}
    cue = " ".join(figures.cue.split())
    panels = [
        Panel(
            Text.assemble((shown(cue), "dim"), " ", _plain(figures.continuations[name])),
            title=title,
            title_align="left",
        )
        for name, title in titles.items()
    ]
    lines = [
        Text.assemble((f"{passage.weight:.3f}  ", "cyan"), _shorten(_plain(passage.text)))
        for passage in figures.passages
    ]
    return Group(*panels, Text("remembered passages that longmem used, by attention:", style="bold"), *lines)


def _questions_table(figures: Figures) -> RenderableType:
    asked = figures.questions
    rows = [
        [
            shown(one["question"]),
            one["answer"],
            *(
                Text(_shorten(_plain(one[name]), 80), style="bold green" if one["answer"] in one[name] else "")
                for name in ("with_memory", "without")
            ),
        ]
        for one in asked
    ]
    right = {name: sum(one["answer"] in one[name] for one in asked) for name in ("with_memory", "without")}
    first = sum(one["passage"] == 1 for one in asked)
    title = (
        f"{len(asked)} questions drawn by a seed: with memory {right['with_memory']} are answered, without "
        f"{right['without']}; the passage listed first holds the answer of {first}"
    )
    return make_table(title, ("question", "the document says", "with memory", "without"), rows, left=4)


def _plain(text: str) -> str:
    """A text on one line."""
    return shown(" ".join(text.split()))


def _shorten(text: str, most: int = 200) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
