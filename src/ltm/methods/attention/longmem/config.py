"""LongMem's choices, with what the paper and its released code use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ltm.bank.eviction import eviction_problems
from ltm.configs import MOST_RETRIEVED, BankFields, RecentFields
from ltm.errors import ConfigError


@dataclass(frozen=True)
class LongMemConfig(RecentFields, BankFields):
    """Wang et al., 2023, "Augmenting Language Models with Long-Term Memory" (arXiv:2306.07174).

    Defaults are ours for a backbone of 30 layers; the paper's values are named where they differ. Raises ConfigError
    with every problem of the values together; what depends on the backbone is checked by `check_layers`.
    """

    reduction_factor: int = 6
    """Backbone layers for each SideNet layer (paper: 2); larger is smaller and faster."""
    memory_layer: int | None = None
    """Zero-based backbone layer whose keys and values are remembered (released: 17 of 24); None: near 2/3 of them."""
    copied_layer: Literal["first", "last"] = "first"
    """Which layer of each group of r backbone layers a SideNet layer starts from: 'last' (as released), or 'first',
    made for what the SideNet layer sees at the identity start, so that its queries meet the bank's keys at once."""
    chunk_size: int = 2
    """Consecutive tokens that share one search key, their mean (paper: 4; 2 for in-context learning)."""
    retrieved_tokens: int = 32
    """Tokens that each query token of each head gets from memory (paper: 64); a multiple of chunk_size."""
    pointer: bool = True
    """Also copy the tokens that followed where the past looked like the present (ours; the paper has none)."""
    pointer_tokens: int = 512
    """Tokens that each query token may copy after, all heads together; a multiple of chunk_size. More cost time, not
    memory kept (docs/log has 64 to 1,024)."""
    pointer_window_tokens: int = 0
    """Places of the local window itself, 8 tokens back at least, that each query token may copy after besides; 128 is
    what was measured (docs/log), 0: none. Only with memory on."""
    pointer_trust: float = 0.0
    """Added to the pointer's log-odds: 3 makes copying about 20 times as likely where it was unlikely, -20 shuts the
    pointer. For use, not for training; 0 suits text, questions and recall (docs/results.md)."""
    backbone_share: bool = False
    """Mix the frozen backbone's own words into the SideNet's, by a share that follows how well each predicts the text
    (ours; a running Bayes mixture); what is copied comes on top. Not in training. A prompt then costs two heads for
    every token, where one for the last would do."""
    fusion: Literal["gate", "softmax"] = "gate"
    """'gate': two softmaxes mixed by a learned gate a head (paper); 'softmax': one softmax over both."""
    start: Literal["identity", "paper"] = "identity"
    """'identity': output projections at zero, the model starts as the backbone; 'paper': copied as they are."""
    shared_memory: bool = False
    """All rows of a batch read and write one memory, as the released code does; off: each row its own."""
    use_memory: bool = True
    """Off: the same SideNet without memory, the baseline that shows memory's own share."""
    coupled: bool = False
    """Remember the SideNet's own keys and values instead of the frozen backbone's: what was written before a training
    step then is stale after it, and a bank belongs to the SideNet (the paper's ablation)."""
    segment_size: int = 256
    """Tokens encoded together when reading and training (paper: 1,024)."""

    LEAST = {
        "reduction_factor": 1,
        "chunk_size": 1,
        "retrieved_tokens": 1,
        "pointer_tokens": 1,
        "pointer_window_tokens": 0,
    }
    MOST = {"retrieved_tokens": MOST_RETRIEVED, "pointer_tokens": MOST_RETRIEVED}

    def problems(self) -> list[str]:
        found = [*super().problems(), *eviction_problems(self.evict)]
        chunk = max(self.chunk_size, 1)
        if chunk > max(self.memory_size, 1):
            found.append(f"chunk_size={chunk} is larger than memory_size={self.memory_size}; use less")
        for name in ("retrieved_tokens", "pointer_tokens"):
            tokens = getattr(self, name)
            if tokens % chunk:
                use = max(tokens // chunk, 1) * chunk
                found.append(f"{name}={tokens} is no multiple of chunk_size={chunk}; use {use}")
        return found

    def check_layers(self, num_layers: int) -> None:
        """Raise ConfigError where reduction_factor or memory_layer do not fit a backbone of `num_layers`."""
        problems, factor = [], self.reduction_factor
        if num_layers % factor:
            fitting = [str(n) for n in range(1, num_layers + 1) if num_layers % n == 0]
            problems.append(
                f"reduction_factor={factor} does not divide the backbone's {num_layers} layers; "
                f"use {', '.join(fitting)}"
            )
        elif self.memory_layer not in (None, *(allowed := self.copied_layers(num_layers))):
            problems.append(
                f"memory_layer={self.memory_layer} is no layer that a SideNet layer starts from; "
                f"use one of {', '.join(map(str, allowed))}"
            )
        if problems:
            raise ConfigError(problems)

    def copied_layers(self, num_layers: int) -> range:
        """Zero-based backbone layers that the SideNet's layers start from, and any of which can be the memory layer."""
        first = 0 if self.copied_layer == "first" else self.reduction_factor - 1
        return range(first, num_layers, self.reduction_factor)

    def resolved_memory_layer(self, num_layers: int) -> int:
        """memory_layer, or the copied layer nearest to two thirds of the depth (released: 17 of 24).

        At 18 of 30 layers SmolLM2's keys tell best what comes next (docs/log)."""
        if self.memory_layer is not None:
            return self.memory_layer
        return min(self.copied_layers(num_layers), key=lambda layer: abs(layer - num_layers * 2 / 3))

    @classmethod
    def tiny(cls) -> LongMemConfig:
        """Small enough that a few dozen tokens fill windows and memory, for the contract tests."""
        return cls(
            reduction_factor=2,
            chunk_size=2,
            memory_size=40,
            retrieved_tokens=6,
            pointer_tokens=6,
            pointer_window_tokens=4,
            segment_size=8,
            local_window=12,
            start="paper",
            backbone_share=True,
        )
