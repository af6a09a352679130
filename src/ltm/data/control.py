"""Control tokens, and text that spells one out: what a text or a question says never becomes a turn, an end or a start.

Tokenizers look for the names of their control tokens in every text they are given, so that a document about chat
formats, or a question that was made to, would write "<|im_end|>" into the prompt as the token itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

Spans = list[tuple[int, int]]
"""Character range of each token."""


class ControlTokens:
    """The control tokens of a tokenizer of transformers, by id: its special tokens, and added ones that its chat
    template writes (in some ChatML models the markers of turns are added tokens, but not special ones).

    >>> control = ControlTokens.of(byte_tokenizer())
    >>> control.spelled("a<eos>", [97, 258]), control.encode("a<eos>")[0]
    (True, [97, 60, 101, 111, 115, 62])
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = ref(tokenizer)  # _KNOWN would keep it for ever
        self.names: dict[int, str] = _names(tokenizer)
        longest_first = sorted(map(re.escape, self.names.values()), key=len, reverse=True)
        self._pattern = re.compile("|".join(longest_first) or r"(?!)", re.IGNORECASE)
        self._literal: Backend | None = None

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, which whoever asks holds."""
        return self._tokenizer()

    @classmethod
    def of(cls, tokenizer: Any) -> ControlTokens:
        """Those of a tokenizer, looked up once as long as it gets no other tokens or template."""
        state = (len(tokenizer), getattr(tokenizer, "chat_template", None)) if hasattr(tokenizer, "__len__") else None
        known = _KNOWN.get(tokenizer)
        if known is None or known[0] != state:
            known = _KNOWN[tokenizer] = (state, cls(tokenizer))
        return known[1]

    def spelled(self, text: str, ids: Sequence[int]) -> bool:
        """Whether a text became control tokens. The unknown token is one only where the text spells it."""
        found, unknown = self.names.keys() & set(ids), getattr(self.tokenizer, "unk_token_id", None)
        return bool(found - {unknown}) or (unknown in found and self.names[unknown] in text)

    def encode(self, text: str) -> tuple[list[int], Spans]:
        """Ids and spans of a text that is taken literally (no spans from a tokenizer that has none)."""
        ids, spans = self._encode_literally(text)
        if not self.spelled(text, ids):
            return ids, spans
        ids, spans, start = [], [], 0  # they are pieces of the vocabulary too (Unigram): part the names
        for end in [*self._inside(text), len(text)]:
            new_ids, new_spans = self._encode_literally(text[start:end])
            ids.extend(new_ids)
            spans.extend((first + start, last + start) for first, last in new_spans)
            start = end
        return ids, spans

    def part(self, text: str, mark: str) -> str:
        """The text with a mark inside the name of every control token."""
        places = [0, *self._inside(text), len(text)]
        return mark.join(text[start:end] for start, end in zip(places, places[1:], strict=False))

    def _inside(self, text: str) -> list[int]:
        """A place inside each name of a control token."""
        return [match.start() + 1 for match in self._pattern.finditer(text)]

    def _encode_literally(self, text: str) -> tuple[list[int], Spans]:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            if self._literal is None:
                self._literal = self._without_control_tokens(backend)
            encoding = self._literal.encode(text, add_special_tokens=False)
            return encoding.ids, encoding.offsets
        try:
            encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        except (TypeError, ValueError):  # one that has no such switch
            encoded = self.tokenizer(text, add_special_tokens=False, verbose=False)
        return encoded["input_ids"], []

    def _without_control_tokens(self, backend: Backend) -> Backend:
        """A copy that does not look for them; to switch the original over and back would mislead other threads."""
        from tokenizers import Tokenizer  # a bank's commands do without

        content = json.loads(backend.to_str())
        names = set(self.names.values())
        content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in names]
        content.update(padding=None, truncation=None)
        return Tokenizer.from_str(json.dumps(content))


def part_control_tokens(value: Any, control: ControlTokens, mark: str) -> Any:
    """Every text in a nest of dicts and lists with a mark inside the names of control tokens."""
    if isinstance(value, str):
        return control.part(value, mark)
    if isinstance(value, Mapping):
        return {key: part_control_tokens(item, control, mark) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [part_control_tokens(item, control, mark) for item in value]
    return value


_KNOWN: WeakKeyDictionary[Any, tuple[Any, ControlTokens]] = WeakKeyDictionary()


def _names(tokenizer: Any) -> dict[int, str]:
    """Names of two characters or more that are not white space: a shorter one cannot be told from text."""
    template = str(getattr(tokenizer, "chat_template", None) or "")
    added = getattr(tokenizer, "added_tokens_decoder", {})
    names = {number: token.content for number, token in added.items() if token.special or token.content in template}
    special = getattr(tokenizer, "all_special_tokens", [])
    names |= dict(zip(getattr(tokenizer, "all_special_ids", []), special, strict=False))
    return {number: name for number, name in names.items() if len(name) > 1 and not name.isspace()}
