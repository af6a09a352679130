"""A served model on a tiny random backbone, whose words mean nothing but whose memory is real."""

from __future__ import annotations

import pytest

from ltm.methods import create_method
from ltm.serve.keys import KeyStore
from ltm.serve.served_model import ServedModel

OPTIONS = {"reduction_factor": 2, "chunk_size": 4, "retrieved_tokens": 8, "segment_size": 32, "start": "paper"}
OPTIONS |= {"memory_size": 4096, "local_window": 256, "pointer_tokens": 64}


@pytest.fixture(scope="session")
def longmem(tiny_backbone):
    """A model that remembers in banks; found by words alone, so that no encoder is loaded."""
    backbone = tiny_backbone("tiny-llama")
    return ServedModel(backbone, create_method("longmem", backbone, **OPTIONS), encoder=None)


@pytest.fixture
def keys(tmp_path):
    store = KeyStore(tmp_path / "data")
    yield store
    store.close()
