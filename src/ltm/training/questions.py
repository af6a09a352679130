"""Questions on passages as training text: demonstrations among which memory must not answer for the passage.

Where many solved questions are remembered, every place just before an answer looks like every other, and what followed
there is the answer to something else. Generated exercises do not teach a memory to keep back there (docs/log):
their answers are either plain from the text or unknowable, while a real answer is one that the model half knows. So
these are real questions, each with its passage and answer, in frames drawn anew for every document.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ltm.data.documents import Document
from ltm.errors import LtmError

from .exercises import WORDS

_PASSAGE = ("Text", "Context", "Background", "Source", "Article", "Extract", "Given")
_QUESTION = ("Query", "Asked", "Problem", "Wanted", "Q", "Issue")
_ANSWER = ("Reply", "Solution", "Response", "Result", "A", "Found")
_FRAMES = (
    "{passage}: {text}\n{asks}: {question}\n{says}: {answer}\n\n",
    "{passage}: {text} {asks}: {question} {says}: {answer}\n",
    "[{passage}] {text}\n[{asks}] {question}\n[{says}] {answer}\n\n",
    "{text}\n{asks} - {question}\n{says} - {answer}\n\n",
    "{asks}: {question}\n{passage}: {text}\n{says}: {answer}\n\n",
)


@dataclass(frozen=True)
class Answered:
    """A question on a passage, and its answer as the passage has it."""

    passage: str
    question: str
    answer: str


def question_documents(
    questions: Sequence[Answered], count: int, *, num_chars: int = 24_000, seed: int = 0
) -> list[Document]:
    """`count` documents of about `num_chars` characters, each in a frame of its own; the same for the same arguments.

    A document has every question once at most, in random order; names of its fields are ordinary ones or, in half of
    the documents, words that mean nothing. Raises LtmError without questions.

    >>> asked = [Answered("Ada wrote the first program.", "who wrote the first program", "Ada")]
    >>> len(question_documents(asked, 3))
    3
    """
    if not questions:
        raise LtmError("no questions given; each needs a passage, a question and an answer that the passage has")
    return [
        Document(f"questions {n}", _document(questions, num_chars, random.Random(f"questions {seed} {n}")), "questions")
        for n in range(count)
    ]


def _document(questions: Sequence[Answered], num_chars: int, draw: random.Random) -> str:
    frame = draw.choice(_FRAMES)
    fields = [draw.choice(names) for names in (_PASSAGE, _QUESTION, _ANSWER)]
    if draw.random() < 0.5:
        fields = [word.capitalize() for word in draw.sample(WORDS, 3)]
    names = dict(zip(("passage", "asks", "says"), fields, strict=True))
    parts: list[str] = []
    length = 0
    for asked in draw.sample(questions, len(questions)):
        if length >= num_chars:
            break
        parts.append(frame.format(**names, text=asked.passage, question=asked.question, answer=asked.answer))
        length += len(parts[-1])
    return "".join(parts)
