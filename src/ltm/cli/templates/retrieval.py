"""NewMethod: how texts are cut into passages, how passages are ranked, and how the writer gets them.

(Authors, year, arXiv number.)

What differs from the paper and its released code:

- As it stands: passages end with a sentence, are found by words and meaning, and stand before the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ltm.methods.registry import register
from ltm.methods.retrieval.base import Retriever, RetrieverFields
from ltm.notes.records import Found
from ltm.notes.row import NoteRow
from ltm.notes.splitting import Span, passages
from ltm.notes.writer import Message, Messages
from ltm.registry import Card


@dataclass(frozen=True)
class NewMethodConfig(RetrieverFields):
    """The paper's name. Raises ConfigError with every problem of the values together."""

    passage_words: int = 100
    """Most words of a passage (paper: ...)."""

    LEAST = {"passage_words": 1}

    @classmethod
    def tiny(cls) -> NewMethodConfig:
        """Nothing to fetch, and passages so short that a few sentences are several, for the contract tests."""
        return cls(encoder="hash", passage_words=12, num_passages=2, num_candidates=4)


@register("new_method")
class NewMethod(Retriever):
    """See the module's text and `NewMethodConfig`.

    >>> method = NewMethod.open(NewMethodConfig(), Means())  # doctest: +SKIP
    >>> method.remember("The key is under the mat.", source="letter")  # doctest: +SKIP
    >>> method.reply([{"role": "user", "content": "Where is the key?"}]).text  # doctest: +SKIP
    """

    config_class = NewMethodConfig
    card = Card("Authors, year, arXiv number", "what it promises", "what is otherwise here")
    memory_options = (*Retriever.memory_options, "passage_words")

    def split(self, text: str) -> list[Span]:
        """Character ranges of the passages of a text."""
        return passages(text, self.method_config.passage_words)

    def rank(self, query: str, found: list[Found]) -> list[Found]:
        """The candidates, best first; as the search has them."""
        return found

    def compose(self, messages: Messages, found: Sequence[Found], notes: NoteRow) -> list[Message]:
        """The writer's prompt; what it recalls is a message of its own, which is never remembered in turn."""
        recalled = "Answer from these passages:\n\n" + "\n\n".join(one.note.text for one in found)
        return [*messages[:-1], {"role": "user", "content": recalled, "recalled": True}, messages[-1]]
