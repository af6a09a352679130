"""Other libraries kept quiet while a model is fetched, converted or loaded."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr

from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from transformers.utils import logging as transformers_logging


@contextmanager
def quiet(*, downloads: bool = False) -> Iterator[None]:
    """Silence transformers' warnings and progress bars in the block, then put every switch back as it was.

    downloads: leave the hub's own bars on, for a block that may fetch gigabytes; otherwise the block writes
    nothing to stderr at all (the GGUF reader draws a bar that has no switch).
    """
    had_bars = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if downloads and had_bars:
        enable_progress_bars()
    try:
        with warnings.catch_warnings(), nullcontext() if downloads else redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        (transformers_logging.enable_progress_bar if had_bars else disable_progress_bars)()
