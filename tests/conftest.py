"""Shared by all tests: offline, one thread, and tiny backbones that are built once."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: no test waits for a network

import pytest
import torch

from ltm.backbone import Backbone, load_backbone

# The tiny models are too small to gain from threads, and pytest-xdist already keeps every core busy.
torch.set_num_threads(1)


@cache
def _tiny(name: str, dtype: str) -> Backbone:
    return load_backbone(name, dtype=dtype, device="cpu")


@pytest.fixture(scope="session")
def tiny_backbone() -> Callable[..., Backbone]:
    """`tiny_backbone(name, dtype="float32")`: the same object at every call, so a test must leave it as it was."""

    def make(name: str, dtype: str = "float32") -> Backbone:
        return _tiny(name, dtype)

    return make


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
