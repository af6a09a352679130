"""EM-LLM (Fountas et al., 2024) and, as its blocks, InfLLM (Xiao et al., 2024): memory in every layer, untrained.

Written out naively: tests/reference/em_llm.py.
"""

from __future__ import annotations

from ltm.methods.attention.em_llm.config import EmLlmConfig
from ltm.methods.attention.em_llm.model import EmLlm

__all__ = ["EmLlm", "EmLlmConfig"]
