"""Answers held to a grammar while they are made: llguidance says which tokens may come next (Earley parsing over byte
tries of the vocabulary; github.com/guidance-ai/llguidance), and all others get no probability."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor

from ltm.errors import LtmError
from ltm.serve.answer_format import AnswerFormat, refused_schema
from ltm.serve.tools import BEGIN, BETWEEN, END, MOST_CALLS
from ltm.text.token_rules import TokenRule

COMPACT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One way to write each value: a small model that may add blanks adds them to the end of its tokens."""


class Grammars:
    """Grammars for the tokens of one model. ends: tokens that end an answer.

    >>> rule = Grammars(tokenizer, ends=[2]).rule(AnswerFormat({"type": "integer"}))  # doctest: +SKIP
    """

    def __init__(self, tokenizer: Any, ends: Sequence[int] = ()):
        self.tokenizer, self.ends, self._lock = tokenizer, list(ends), Lock()

    @cached_property
    def vocabulary(self) -> LLTokenizer:
        """The tokens as bytes; takes about a second to make. Raises LtmError for a tokenizer that does not tell."""
        try:
            return from_tokenizer(self.tokenizer, eos_token=self.ends[:1] or None)
        except Exception as error:  # it raises ValueError and others, by kind of tokenizer
            words = " ".join(str(error).split())[:200]
            raise LtmError(f"this model's tokenizer cannot be held to a grammar: {words}; ask for text") from error

    def check(self, wanted: AnswerFormat) -> None:
        """Raise ApiError 400 for a format that answers cannot be held to. Takes a while for large ones."""
        for param, schema in _schemas(wanted):
            try:
                grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=COMPACT)
            except ValueError as error:  # nested deeper than it reads
                raise refused_schema(str(error), param) from None
            self._matcher(grammar, param)
        self.rule(wanted)

    def rule(self, wanted: AnswerFormat) -> GrammarRule | None:
        """What holds one answer to a format; None for any text."""
        if wanted.schema is None and wanted.tools is None:
            return None
        return GrammarRule(self._matcher(lark(wanted), wanted.param), self.ends)

    def token_bytes(self, token: int) -> bytes:
        """What a token says; of one that stands for nothing said, its name."""
        if token >= self.vocabulary.vocab_size or self.vocabulary.is_special_token(token):
            return self.tokenizer.decode([token]).encode()
        return self.vocabulary.decode_bytes([token])

    def _matcher(self, grammar: str, param: str) -> LLMatcher:
        with self._lock:
            vocabulary = self.vocabulary
        matcher = LLMatcher(vocabulary, grammar, log_level=0)
        if matcher.is_error():
            raise refused_schema(matcher.get_error(), param)
        return matcher


def _schemas(wanted: AnswerFormat) -> list[tuple[str, Any]]:
    """Each with the field that it came in."""
    own = [] if wanted.schema is None else [(wanted.param, wanted.schema)]
    return own + [(tool.param, tool.parameters) for tool in (wanted.tools.tools if wanted.tools else ())]


def lark(wanted: AnswerFormat) -> str:
    """A format in llguidance's dialect of Lark: text or JSON, or one call or more. A lazy terminal ends at the first
    <tool_call> in a text, from where on it has to be one."""
    rules = [] if wanted.schema is None else [f"json: {_json(wanted.schema)}"]
    if wanted.tools is None:
        return "\n".join(["%llguidance {}", "start: json", *rules])
    mark, rest = BEGIN[: BEGIN.index("{")], BEGIN[BEGIN.index("{") :]
    for number, tool in enumerate(wanted.tools.tools):
        around = json.dumps(rest + tool.name + BETWEEN), json.dumps(END)
        rules.append(f"call_{number}: {around[0]} {_json(tool.parameters)} {around[1]}")
    calls = " | ".join(f"call_{number}" for number in range(len(wanted.tools.tools)))
    more = f" (mark call){{0,{MOST_CALLS - 1}}}" if wanted.tools.parallel else ""
    rules += [f"mark: {json.dumps(mark)}", f"call: {calls}"]
    if wanted.tools.must:
        start = f"mark call{more}"
    elif wanted.schema is not None:
        start = f"json | mark call{more}"
    else:
        start = f"TEXT | head call{more}"
        rules += [r"TEXT: /(.|\n)*/", f"head[lazy]: TEXT {json.dumps(mark)}"]
    return "\n".join(["%llguidance {}", f"start: {start}", *rules])


def _json(schema: Any) -> str:
    """A schema within a grammar."""
    return f"%json {json.dumps({**schema, 'x-guidance': COMPACT})}"


class GrammarRule(TokenRule):
    """Holds one answer to a grammar; it is whole when nothing can follow. ends: tokens that may end it where the
    grammar lets it end."""

    def __init__(self, matcher: LLMatcher, ends: Sequence[int]):
        self.matcher, self.ends = matcher, list(ends)

    def shape(self, scores: Tensor) -> Tensor:
        bits = np.frombuffer(self.matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: len(scores)].astype(bool)
        if self.matcher.is_error():
            raise LtmError(f"the answer's schema got too complex on the way: {self.matcher.get_error()[:200]}")
        mask = torch.zeros(len(scores), dtype=torch.bool)  # a model may score more tokens than its tokenizer has
        mask[: len(allowed)] = torch.from_numpy(allowed)
        mask[self.ends] = self.matcher.is_accepting()
        return scores.masked_fill(~mask.to(scores.device), -torch.inf)

    def take(self, token: int) -> bool:
        self.matcher.consume_token(token)
        return self.matcher.is_stopped()
