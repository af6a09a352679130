"""Plain retrieval-augmented generation: passages of about a hundred words, found by words and meaning, numbered in the
prompt. What every other memory of text should be compared with."""

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
class RagConfig(RetrieverFields):
    """Plain retrieval. Raises ConfigError with every problem of the values together."""

    passage_words: int = 100
    """Most words of a passage (paper: 100, all of exactly so many)."""

    LEAST = {"passage_words": 1}

    @classmethod
    def tiny(cls) -> RagConfig:
        """Nothing to fetch, and passages so short that a few sentences are several."""
        return cls(encoder="hash", passage_words=12, num_passages=2, num_candidates=4)


@register("rag")
class Rag(Retriever):
    """Retrieval-augmented generation; see the module's text and `RagConfig`."""

    config_class = RagConfig
    card = Card(
        "Lewis et al., 2020, arXiv:2005.11401",
        "passages that are looked up and put before the question let a model answer from texts it never saw",
        "no part is trained: the passages stand in the prompt of any model (in-context retrieval, Ram et al., 2023, "
        "arXiv:2302.00083) instead of marginalising over them with a trained query encoder and BART; BM25 and MiniLM "
        "fused by rank find them; a passage ends with a sentence, the paper's with the hundredth word",
    )
    memory_options = (*Retriever.memory_options, "passage_words")

    method_config: RagConfig

    def split(self, text: str) -> list[Span]:
        return passages(text, self.method_config.passage_words)

    def compose(self, messages: Messages, found: Sequence[Found], notes: NoteRow) -> list[Message]:
        """Sources with numbers, the best first, then what was asked."""
        sources = [notes.event(one.note.cites[0].event).source for one in found]
        lines = [
            f"[{number}] {source + ': ' if source else ''}{' '.join(one.note.text.split())}"
            for number, (source, one) in enumerate(zip(sources, found, strict=True), start=1)
        ]
        recalled = "Answer from these sources:\n\n" + "\n\n".join(lines)
        return [*messages[:-1], {"role": "user", "content": recalled, "recalled": True}, messages[-1]]
