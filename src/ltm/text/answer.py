"""What a session answers: the text, what stood before it, and what of memory it used."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ltm.data.passages import AnswerTrace, Passage
from ltm.text.asking import UNKNOWN
from ltm.text.generation import OnText
from ltm.text.moved import Moved
from ltm.text.recall import Recalled


@dataclass(frozen=True)
class Answer:
    """What a session answered.

    text; token_ids without the end token; passages of memory that attention used, most used first (empty without
    trace); prompt_tokens; ended: the model ended it itself (False: max_new_tokens did); seconds for finding, prompt and
    answer; trace: what each token used (empty without trace), for `ltm.text.trace_page`. found: passages that were
    looked up, best first; recalled: what of them stood in the window, in the order of the text; confidence: 0..1 that
    they hold the answer (None: nothing was looked up); moved: what each of those in the window did to the answer, most
    first (empty without trace); abstained: too little for an answer; encoded_tokens: of the
    prompt, those that had to be encoded for this answer.
    """

    text: str
    token_ids: list[int]
    passages: list[Passage]
    prompt_tokens: int
    ended: bool
    seconds: float
    trace: AnswerTrace = field(default_factory=AnswerTrace)
    found: list[Passage] = field(default_factory=list)
    recalled: list[Passage] = field(default_factory=list)
    confidence: float | None = None
    moved: list[Moved] = field(default_factory=list)
    abstained: bool = False
    encoded_tokens: int = 0

    @property
    def tokens_per_second(self) -> float:
        """New tokens by the seconds for prompt and answer together."""
        return len(self.token_ids) / self.seconds if self.seconds else 0.0

    def after(self, recalled: Recalled) -> Answer:
        """The same with what was found for the question."""
        return replace(self, found=recalled.found, recalled=recalled.shown, confidence=recalled.confidence)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = asdict(replace(self, trace=AnswerTrace()))
        del plain["trace"]  # many times as long as the rest
        return {**plain, "tokens_per_second": self.tokens_per_second}


def unknown_answer(recalled: Recalled, seconds: float, on_text: OnText | None = None) -> Answer:
    """What is said where nothing fits; none of what was found stood in the window."""
    if on_text is not None:
        on_text(UNKNOWN)
    return Answer(UNKNOWN, [], [], 0, True, seconds, abstained=True).after(replace(recalled, shown=[]))
