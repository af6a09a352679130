"""What is asked about: texts, arms, how many questions."""

from __future__ import annotations

from dataclasses import dataclass

from ltm.errors import ConfigError
from ltm.tasks.comma_lists import numbers, words

TEXTS = ("squad", "many", "locomo", "babi", "qmsum", "planted")
ARMS = ("none", "memory", "text", "both", "gold", "random", "full")


@dataclass(frozen=True)
class AskConfig:
    """Which texts, how many questions, which arms. Raises ConfigError with every problem of the values together."""

    texts: str = "squad"
    """Where texts and questions come from, with commas: squad, many, locomo, babi, qmsum, planted."""
    arms: str = "none,memory,text,both,gold,random,full"
    """What of the past an answer has, with commas."""
    half: str = "test"
    """The half of SQuAD's articles that is asked about; the other one, tune, is for choosing how to ask."""
    articles: int | None = None
    """Articles (squad), conversations (locomo) or meetings (qmsum); None: all."""
    questions: int | None = 20
    """Questions of each text (many: of all together; babi: stories of each task); None: all."""
    foreign: bool = False
    """Ask as many questions about other articles, which what was read does not answer (squad, many)."""
    max_tokens: int = 262144
    """Most tokens of articles in one memory (many)."""
    lengths: str = "4096,16384,65536,262144"
    """Tokens of a book with planted facts, with commas."""
    facts: int = 4
    """Facts said once, facts that change, and pairs of sentences in a book, so many of each."""
    trials: int = 1
    """Books of each length."""
    max_new_tokens: int = 48
    """Most tokens of an answer; at 24, 125 of 160 answers of SmolLM2-135M were cut short."""
    likelihood: bool = True
    """Measure the log-probability of the gold answer as well, which encodes each prompt once more."""
    batch_size: int = 8
    """Most questions in one forward."""
    seed: int = 0
    """Draws articles, questions, places and passages."""

    def __post_init__(self) -> None:
        problems = []
        for name, known in (("texts", TEXTS), ("arms", ARMS)):
            chosen = words(getattr(self, name))
            if not chosen or set(chosen) - set(known):
                problems.append(f"{name}={getattr(self, name)!r}; use one or more of {', '.join(known)}")
        if self.half not in ("tune", "test"):
            problems.append(f"half={self.half!r}; use tune or test")
        if min(numbers(self.lengths)) < 1024:
            problems.append(f"lengths={self.lengths}; use 1024 or more")
        for name in ("articles", "questions", "max_tokens", "facts", "trials", "max_new_tokens", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"{name}={value}; use 1 or more")
        if self.facts > 6:
            problems.append(f"facts={self.facts}; use 6 or fewer: there are names for no more")
        if problems:
            raise ConfigError(problems)
