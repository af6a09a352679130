"""One self-contained page for an answer: its tokens, and on hover the passages that each of them comes from.

What stood in the window and what attention to memory used are told apart: the first is known by taking a passage out
(`ltm.text.moved`), the second by weights.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm.console import hidden_as_json, shown
from ltm.outputs import begins_with

if TYPE_CHECKING:
    from ltm.data.passages import Passage
    from ltm.text.answer import Answer

_TEMPLATE = Path(__file__).with_name("trace_page.html")
_MARK = '<meta name="generator" content="ltm trace page">'
KIND = "a trace page"
is_trace_page = begins_with(_MARK)
"""Whether a file is a page that was made here, which another may replace."""


def trace_page(question: str, answer: Answer) -> str:
    """HTML without any outside resource.

    answer: from `Session.ask(..., trace=True)`. A token's shade is the share of attention that memory had in it; what a
    passage in the window made likelier is underlined.

    >>> Path("out.html").write_text(trace_page(question, answer))  # doctest: +SKIP
    """
    page = _TEMPLATE.read_text(encoding="utf-8")
    return page.replace("{{question}}", escape(shown(question, lines=True))).replace("{{data}}", _json(_data(answer)))


def _data(answer: Answer) -> dict[str, Any]:
    moved = [{**_passage(one.passage), "nats": round(one.nats, 3), "tokens": one.tokens} for one in answer.moved]
    return {
        "window": moved or [{**_passage(one), "nats": None, "tokens": []} for one in answer.recalled],
        "passages": [{**_passage(one), "weight": round(one.weight, 5)} for one in answer.trace.passages],
        "tokens": [
            {
                "text": token.text,
                "share": round(token.weight, 5),
                "uses": [[use.passage, use.start, use.end, round(use.weight, 5)] for use in token.uses],
            }
            for token in answer.trace.tokens
        ],
    }


def _passage(one: Passage) -> dict[str, Any]:
    return {"document": one.document, "start": one.start, "end": one.end, "text": one.text}


def _json(data: dict[str, Any]) -> str:
    """JSON that cannot end the script element it stands in, whatever texts are in it."""
    plain = json.dumps(data, ensure_ascii=False)
    return hidden_as_json(plain.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
