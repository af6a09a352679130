"""Any OpenAI-compatible server as a writer: vLLM, llama-server, Ollama, a gateway, or ours."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from ltm.errors import LtmError, short_repr
from ltm.notes.writer import Messages, OnText, Usage, WriterError, merged

KEY_VARIABLE = "LTM_WRITER_KEY"
"""Environment variable with the server's key."""
TIMEOUT_SECONDS = 120.0
MOST_BYTES = 16 * 2**20
"""Of an answer; a server that sends more is not one that we speak to."""


class RemoteWriter:
    """A model on a server.

    url: up to and with its version, "http://localhost:8000/v1"; model: its name there; key: None takes LTM_WRITER_KEY,
    if set; timeout in seconds for each call. Raises LtmError for an address that is none.

    >>> RemoteWriter("http://localhost:8000/v1", "qwen3").write(messages)  # doctest: +SKIP
    """

    def __init__(self, url: str, model: str, key: str | None = None, timeout: float = TIMEOUT_SECONDS):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise LtmError(f"{short_repr(url)} is no address of a server; give one like http://localhost:8000/v1")
        self.url, self.model, self.timeout = url.rstrip("/"), model, timeout
        self.name, self.usage = f"{model} at {parts.hostname}", Usage()
        self._key = os.environ.get(KEY_VARIABLE) if key is None else key

    def write(
        self,
        messages: Messages,
        schema: dict[str, Any] | None = None,
        max_tokens: int = 256,
        *,
        on_text: OnText | None = None,
        **sampling: Any,
    ) -> str:
        if sampling.pop("rules", None):
            raise WriterError(f"writer {self.name} makes its tokens elsewhere, where rules for them cannot reach")
        sampling.setdefault("temperature", 0.0)
        sampling.pop("repetition_penalty", None)  # of OpenAI's fields none means the same
        asked = {name: value for name, value in sampling.items() if value is not None}
        body = {"model": self.model, "messages": merged(messages), "max_tokens": max_tokens, **asked}
        if schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": schema},
            }
        answer = self._post("chat/completions", body)
        text = _at(answer, "choices", 0, "message", "content")
        if not isinstance(text, str):
            raise WriterError(f"writer {self.name} answered without text: {short_repr(answer, 200)}")
        self._count(answer)
        if on_text is not None:
            on_text(text)
        return text

    def score(self, prompt: str | Messages, choices: Sequence[str]) -> list[float]:
        """By `/completions` with `echo` and `logprobs`, which vLLM and some others have; messages are joined line by
        line, since a server's chat template is not known here."""
        plain = prompt if isinstance(prompt, str) else "\n".join(own["content"] for own in merged(prompt)) + "\n"
        return [self._score(plain, choice) for choice in choices]

    def _score(self, prompt: str, choice: str) -> float:
        body = {"model": self.model, "prompt": prompt + choice, "echo": True, "logprobs": 1, "max_tokens": 1}
        answer = self._post("completions", {**body, "temperature": 0.0})
        found = _at(answer, "choices", 0, "logprobs")
        places, nats = _at(found, "text_offset"), _at(found, "token_logprobs")
        if not isinstance(places, list) or not isinstance(nats, list) or len(places) != len(nats):
            raise WriterError(
                f"writer {self.name} does not say how likely a given text is (no echo with logprobs in /completions); "
                "methods that need that run on a backbone of ours, or on vLLM"
            )
        self._count(answer)
        start, end = len(prompt), len(prompt) + len(choice)
        own = [value for place, value in zip(places, nats, strict=True) if start <= place < end]
        if not own or not all(isinstance(value, (int, float)) for value in own):
            raise WriterError(f"writer {self.name} gave no likelihood of {short_repr(choice)}; give a longer prompt")
        return float(sum(own))

    def _count(self, answer: Any) -> None:
        counts = [_at(answer, "usage", name) for name in ("prompt_tokens", "completion_tokens")]
        prompt_tokens, new_tokens = (count if isinstance(count, int) else 0 for count in counts)
        self.usage.add(prompt_tokens, new_tokens)

    def _post(self, route: str, body: dict[str, Any]) -> Any:
        """The server's JSON answer; WriterError for any other."""
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = Request(f"{self.url}/{route}", json.dumps(body).encode(), headers)
        try:
            with urlopen(request, timeout=self.timeout) as response:
                content = response.read(MOST_BYTES + 1)
            if len(content) > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES:,} bytes")
            return json.loads(content)
        except HTTPError as error:
            said = _said(error)
            raise WriterError(f"writer {self.name} refused (status {error.code}): {said}") from error
        except (URLError, TimeoutError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            waited = f" within {self.timeout:g} s" if isinstance(reason, TimeoutError) else ""
            raise WriterError(
                f"writer {self.name} did not answer at {self.url}{waited} ({short_repr(str(reason))}); is it running?"
            ) from error
        except (ValueError, RecursionError) as error:
            raise WriterError(f"writer {self.name} did not answer in JSON ({short_repr(str(error))})") from error


def _said(error: HTTPError) -> str:
    """What the server says of its refusal."""
    try:
        content = error.read(4096).decode("utf-8", "replace")
        message = _at(json.loads(content), "error", "message") if content.startswith("{") else content
        return short_repr(message, 200)
    except (OSError, ValueError, RecursionError):
        return error.reason if isinstance(error.reason, str) else "no reason given"


def _at(value: Any, *path: str | int) -> Any:
    """What lies at a path of JSON; None where it does not lead there."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value
