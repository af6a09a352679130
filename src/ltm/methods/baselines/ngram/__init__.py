"""An n-gram cache: what followed the present's last tokens before is likelier to follow again; token ids alone.

Written out naively: tests/reference/ngram.py.
"""

from __future__ import annotations

from ltm.methods.baselines.ngram.config import NGramConfig
from ltm.methods.baselines.ngram.model import NGram

__all__ = ["NGram", "NGramConfig"]
