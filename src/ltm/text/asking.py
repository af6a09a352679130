"""How a question is put: what of the past stands before it, in which words, and when it is better left unanswered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import Tensor

from ltm.configs import INSTRUCTION, NUM_PASSAGES, Config
from ltm.data.passages import Passage
from ltm.errors import ConfigError
from ltm.text.generation import Turn, checked_turn, plain_ids, question_ids
from ltm.text.plain import has_template, plain_question
from ltm.text.recall import RecallMode

UNKNOWN = "I don't know: nothing that was read fits this question."


@dataclass(frozen=True)
class Asking(Config):
    """How a question is put. Raises ConfigError with every problem of the values together."""

    recall: RecallMode = "both"
    """What of the past an answer has: passages in the window and the memory (both), one of the two (text, memory), or
    nothing (off)."""
    num_passages: int = NUM_PASSAGES
    """Passages that are looked at for a question; of their sentences the nearest, one more than that, are shown."""
    instruction: str | None = None
    """What follows the question, on a line of its own; None: "Answer in a few words taken from the text." where
    passages are shown and the model takes instructions (it has a chat template), else nothing."""
    min_confidence: float = 0.0
    """Say "I don't know" where what was found is less likely than this to hold the answer, 0 to 1; 0: always answer."""

    show_confidence: float = 0.01
    """Show no passages where what was found is less likely than this to hold the answer, 0 to 1: what does not fit
    draws a model off. Of 374 questions about other articles than were read this spares 355 their passages, of 408 that
    can be answered 2 lose theirs (docs/log/2026-11-27-chat.md)."""
    query: str | None = None
    """What is looked for in the memory; None: the question."""

    def problems(self) -> list[str]:
        found = super().problems()
        if self.num_passages < 1:
            found.append(f"num_passages={self.num_passages}; use 1 or more, or recall='memory' for none")
        for name in ("min_confidence", "show_confidence"):
            if not 0 <= getattr(self, name) <= 1:
                found.append(f"{name}={getattr(self, name)}; use 0 to 1")
        return found

    @property
    def in_window(self) -> bool:
        """Whether passages are looked up."""
        return self.recall in ("both", "text")

    @property
    def with_memory(self) -> bool:
        """Whether the memory is attached."""
        return self.recall in ("both", "memory")


def split_options(options: dict[str, Any]) -> tuple[Asking, dict[str, Any]]:
    """What of keyword arguments says how to ask, and the others."""
    own = {name: options[name] for name in options if name in Asking.__dataclass_fields__}
    return Asking(**own), {name: value for name, value in options.items() if name not in own}


def asked_ids(
    tokenizer: Any, question: str, shown: Sequence[Passage], asking: Asking, history: Sequence[Turn] = ()
) -> Tensor:
    """The whole prompt, int64 [1, tokens]: in the model's chat template, or as a text whose next line is the answer."""
    if has_template(tokenizer):
        return question_ids(tokenizer, prompt_text(question, shown, asking), history)
    turns = [checked_turn(turn) for turn in history]
    instruction = instruction_of(asking, shown, tokenizer)
    return plain_ids(tokenizer, plain_question(question, _passages_text(shown), instruction, turns))


def prompt_text(question: str, shown: Sequence[Passage], asking: Asking) -> str:
    """The last turn: passages by document, the question, the instruction."""
    asked = f"{question}\n{instruction_of(asking, shown)}".rstrip()
    return "\n\n".join(part for part in (_passages_text(shown), asked) if part)


def _passages_text(shown: Sequence[Passage]) -> str:
    blocks = []
    for document, group in groupby(shown, key=lambda passage: passage.document):
        text = "\n".join(passage.text.strip() for passage in group)
        blocks.append(text if document is None else f"From {document}:\n{text}")
    return "\n\n".join(blocks)


def instruction_of(asking: Asking, shown: Sequence[Passage], tokenizer: Any = None) -> str:
    """What follows the question; tokenizer: of the model that is asked, None: of one that takes instructions."""
    if asking.instruction is not None:
        return asking.instruction
    return INSTRUCTION if shown and (tokenizer is None or has_template(tokenizer)) else ""


def fitting(shown: Sequence[Passage], tokenizer: Any, room: int | None) -> list[Passage]:
    """As many passages as so many tokens hold (None: all), the least weighty left out first."""
    if room is None or not shown:
        return list(shown)
    lengths = [len(ids) + 1 for ids in tokenizer([p.text for p in shown], add_special_tokens=False)["input_ids"]]
    kept = set[int]()
    for place in sorted(range(len(shown)), key=lambda place: -shown[place].weight):
        if lengths[place] <= room:
            room -= lengths[place]
            kept.add(place)
    return [shown[place] for place in sorted(kept)]


def check_given(given: Any, questions: Sequence[str]) -> None:
    """Refuse passages that are not a list of texts for each question."""
    if given is not None and (len(given) != len(questions) or any(isinstance(own, str) for own in given)):
        raise ConfigError(
            [f"given holds {len(given)} items; give a list of texts for each of {len(questions)} questions"]
        )
