"""EM-LLM's choices, with what the paper and its released configurations use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ltm.configs import MOST_RETRIEVED, BudgetFields, StorageFields, WindowFields, stride_of
from ltm.errors import ConfigError


@dataclass(frozen=True)
class EmLlmConfig(WindowFields, StorageFields, BudgetFields):
    """Fountas et al., 2024, "Human-like Episodic Memory for Infinite Context LLMs" (arXiv:2407.09450); with
    segmentation="blocks" InfLLM (Xiao et al., 2024, arXiv:2402.04617).

    Raises ConfigError with every problem of the values together; what depends on the backbone is checked by
    `first_layer`.
    """

    segmentation: Literal["surprise", "blocks"] = "surprise"
    """What cuts the past into events: 'surprise' (EM-LLM), or 'blocks' of max_event_size tokens without refinement and
    contiguity (InfLLM), which needs no logits while reading."""
    retrieved_tokens: int = 128
    """Tokens of events that a layer attends to beside window and sinks, neighbours included (paper: 2,048 to 4,096);
    more of them distract a small backbone."""
    recall_from_layer: int | None = None
    """First backbone layer that recalls events; those below see sinks and window alone, which saves their search and
    costs up to 1% of perplexity (paper: 0); None: at a quarter of the depth."""
    candidate_tokens: int | None = 4096
    """Tokens of events, the best by their representative keys, whose own keys are then met by the query, so that those
    events are recalled that heads attend to most; none: representative keys decide (paper)."""
    early_candidates: float = 0.0625
    """Share of all remembered tokens that are candidates in layers below 3/8 of the depth, where that is more than
    candidate_tokens: heads look for single tokens there, which an event's representative key shows least."""
    contiguity: float = 0.3
    """Share of retrieved_tokens that goes to the neighbours of the events found (paper: 0.3; shipped files: off)."""
    min_event_size: int = 8
    """Least tokens of an event; boundaries that come sooner are passed over (paper: 8)."""
    max_event_size: int = 32
    """Most tokens of an event, and all tokens of a block (paper: 128); small backbones find short ones better."""
    gamma: float = 1.0
    """A token begins an event if its surprise is this many standard deviations above the mean of its segment; more
    gives longer events (paper: 1)."""
    refinement: Literal["modularity", "conductance", "none"] = "modularity"
    """What moves boundaries to where keys are most alike within events and least across (shipped files: none)."""
    refine_from_layer: int | None = None
    """First backbone layer whose keys count for refinement (paper: 20 of 32); None: at 5/8 of the depth."""
    representative: Literal["mean", "attended"] = "mean"
    """What stands for an event in each head: the 'mean' of its keys, or of those of the tokens that were 'attended' to
    most (paper), which reading then has to count."""
    representative_tokens: int = 4
    """How many tokens 'attended' takes of an event (paper: 4)."""
    vote: Literal["softmax", "sum"] = "softmax"
    """How heads agree on events: each has one vote, spread by a 'softmax' over sinks and events, or inner products are
    added up ('sum', paper)."""
    num_sinks: int = 32
    """First tokens of what is remembered, which every query sees (paper: 128)."""
    placement: Literal["ordered", "edge"] = "ordered"
    """Where remembered keys stand: the tokens of each event in their order beyond `distance`, all events at the same
    place ('ordered'), or all tokens at one place ('edge', paper)."""
    distance: int | None = 256
    """How far from the query remembered keys stand, tokens; none: local_window - 1 (paper)."""
    local_window: int = 1024
    """Most tokens up to the present that attention sees at their true distance (paper: 4,096)."""
    stride: int | None = None
    """Tokens that are encoded and then remembered together; the window is at least local_window less these (paper:
    512); None: half of the window."""
    memory_size: int | None = 262144  # type: ignore[assignment]
    """Most tokens remembered in each row, of every layer; the oldest leave first; none: no limit (as in the paper)."""
    offload: int | None = 65536
    """Tokens of a row above which its keys and values lie in temporary mapped files (paper: disk above 300,000)."""

    LEAST = {
        "retrieved_tokens": 1,
        "candidate_tokens": 1,
        "min_event_size": 1,
        "max_event_size": 1,
        "gamma": 0,
        "representative_tokens": 1,
        "num_sinks": 0,
        "distance": 0,
        "offload": 1,
    }
    MOST = {"retrieved_tokens": MOST_RETRIEVED, "representative_tokens": MOST_RETRIEVED}

    def problems(self) -> list[str]:
        found = super().problems()
        if self.max_event_size < self.min_event_size:
            found.append(f"max_event_size={self.max_event_size}; use min_event_size={self.min_event_size} or more")
        if not 0 <= self.early_candidates <= 1:
            found.append(f"early_candidates={self.early_candidates}; use a share from 0 to 1, such as 0.0625")
        if not 0 <= self.contiguity < 1:
            found.append(f"contiguity={self.contiguity}; use a share from 0 to less than 1, such as 0.3")
        if self.candidate_tokens is not None and self.candidate_tokens < self.retrieved_tokens:
            least = f"retrieved_tokens={self.retrieved_tokens}"
            found.append(f"candidate_tokens={self.candidate_tokens}; use {least} or more, or none")
        return found

    @classmethod
    def with_window(cls, window: int, stride: int | None = None) -> dict[str, int]:
        # a segment sees at least as many tokens before it as there are sinks: results were measured so
        return super().with_window(window, None if stride is None else min(stride, window - cls.num_sinks))

    @property
    def segment_size(self) -> int:
        """Tokens that are encoded together."""
        return stride_of(self.local_window, self.stride)

    @property
    def recent_size(self) -> int:
        """Most tokens before a segment that it sees at their true distance."""
        return self.local_window - self.segment_size

    @property
    def edge(self) -> int:
        """The position from which queries meet remembered keys, which stand at 0."""
        return self.local_window - 1 if self.distance is None else self.distance

    @property
    def event_budgets(self) -> tuple[int, int]:
        """Tokens of events found by similarity, and of their neighbours."""
        if self.segmentation == "blocks" or not self.contiguity:
            return self.retrieved_tokens, 0
        neighbours = int(self.contiguity * self.retrieved_tokens + 1)
        return self.retrieved_tokens - neighbours, neighbours

    def candidates(self, layer: int, num_layers: int, tokens: int) -> int | None:
        """Tokens of events that a layer's query meets when so many are remembered; None: representative keys decide."""
        if self.candidate_tokens is None or layer >= 3 * num_layers // 8:
            return self.candidate_tokens
        return max(self.candidate_tokens, int(self.early_candidates * tokens))

    def first_layer(self, setting: str, num_layers: int) -> int:
        """What 'recall_from_layer' or 'refine_from_layer' means for a backbone; ConfigError where it has no such."""
        asked = getattr(self, setting)
        if asked is None:
            return {"recall_from_layer": -(-num_layers // 4), "refine_from_layer": 5 * num_layers // 8}[setting]
        if not 0 <= asked < num_layers:
            raise ConfigError(f"{setting}={asked}; the backbone has layers 0 to {num_layers - 1}")
        return int(asked)

    @classmethod
    def tiny(cls) -> EmLlmConfig:
        """Small enough that a few dozen tokens fill windows and memory, for the contract tests."""
        return cls(
            retrieved_tokens=10,
            candidate_tokens=20,
            min_event_size=3,
            max_event_size=6,
            gamma=0.5,
            representative_tokens=2,
            num_sinks=2,
            local_window=20,
            stride=12,
            memory_size=40,
        )
