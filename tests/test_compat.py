"""Both names of the cache, whatever transformers is installed: arguments, outputs, generate(); no warning of ours."""

from __future__ import annotations

import logging

import pytest
import torch

import ltm
from ltm.compat import cache_of, heed_softcap
from ltm.errors import ConfigError

NAMES = ("cache", "past_key_values")


@pytest.fixture
def method(tiny_backbone):
    made = ltm.attach("longmem", tiny_backbone("tiny-llama"), reduction_factor=2, local_window=32)
    made.read(tokens(40, 1))
    return made


@pytest.fixture
def told(monkeypatch):
    """What transformers' loggers say of what is deprecated."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "level", logging.WARNING)
    once = getattr(logging.Logger, "warning_once", None)  # says a text once a process: let it say all again
    if hasattr(once, "cache_clear"):
        once.cache_clear()
    return lines


def tokens(length: int, seed: int) -> torch.Tensor:
    return torch.randint(5, 250, (1, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_a_stream_goes_on_under_either_name(method, name):
    whole = method(tokens(12, 2)).logits
    cache = method.new_cache()
    first = method(tokens(12, 2)[:, :7], **{name: cache}, use_cache=True)
    assert first.cache is first.past_key_values is cache_of(first) is cache
    rest = method(tokens(12, 2)[:, 7:], **{name: first.cache}, use_cache=True)
    torch.testing.assert_close(torch.cat((first.logits, rest.logits), dim=1), whole, atol=1e-5, rtol=1e-4)
    assert method(tokens(12, 2), use_cache=False).cache is None


def test_generate_takes_either_name(method):
    plain = method.generate(tokens(9, 3), max_new_tokens=5, do_sample=False, pad_token_id=0)
    for name in NAMES:
        cache = method.new_cache()
        again = method.generate(tokens(9, 3), max_new_tokens=5, do_sample=False, pad_token_id=0, **{name: cache})
        assert torch.equal(plain, again) and cache.get_seq_length() == 13  # what was fed: not the last new token


def test_two_caches_are_refused(method):
    two = {name: method.new_cache() for name in NAMES}
    with pytest.raises(ConfigError, match="one argument"):
        method(tokens(5, 4), **two)
    with pytest.raises(ConfigError, match="one argument"):
        method.generate(tokens(5, 4), **two)


def test_nothing_of_ours_is_deprecated(method, told, recwarn):
    for name in NAMES:
        output = method(tokens(5, 5), **{name: method.new_cache()}, use_cache=True)
        assert output.past_key_values is output.cache
        method.generate(tokens(5, 5), max_new_tokens=3, num_beams=2, do_sample=False, **{name: method.new_cache()})
    ltm.attach("em_llm", method.backbone).read(tokens(40, 6))
    said = [*told, *(str(warning.message) for warning in recwarn)]
    assert not [line for line in said if "deprecat" in line.lower()]


def test_a_soft_cap_is_heeded(tiny_backbone):
    """Gemma 2 under SDPA, as the first transformers 5 have it, would leave its cap out without a word."""
    model = tiny_backbone("tiny-gemma2").model
    before = model.config._attn_implementation
    assert before == "eager"
    model.config._attn_implementation = "sdpa"
    try:
        heed_softcap(model)
        assert model.config._attn_implementation == "eager"
    finally:
        model.config._attn_implementation = before
