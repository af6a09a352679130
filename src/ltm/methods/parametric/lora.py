"""LoRA: a low-rank change beside each matrix, learned while reading; the layers are PEFT's.

    y = W x + (alpha / rank) B A x,   A [rank, in] random, B [out, rank] zero at first

(Hu et al., 2021, arXiv:2106.09685, equation 3.) PEFT makes the layer of each module through its public
`inject_adapter_in_model`, in a holder of its own: the backbone is never touched by it.

What differs from the paper: A and B are learned while reading, one pair for each memory row, beside a frozen backbone;
all matrices of the layers are changed (paper: queries and values; Dettmers et al., 2023, arXiv:2305.14314, section 4:
all are needed); A is drawn as PEFT and the released code (microsoft/LoRA) draw it, uniformly (paper: normally); no
dropout.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ltm.errors import LtmError
from ltm.methods.parametric.base import Parametric, ParametricFields
from ltm.methods.registry import register
from ltm.registry import Card

ADAPTER = "memory"
"""What PEFT is told the adapter is called."""


@dataclass(frozen=True)
class LoraConfig(ParametricFields):
    """Hu et al., 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv:2106.09685)."""

    rank: int = 8
    """Rank of the change of each matrix (paper: 1 to 64; 8 for GPT-3, PEFT's default)."""
    alpha: float | None = None
    """The change is scaled by alpha / rank; None: by 1 (paper: alpha is the first rank tried)."""
    read_rate: float = 1e-3
    """Learning rate of AdamW while reading (PEFT's examples, over epochs: 2e-4)."""

    LEAST: ClassVar[Mapping[str, float]] = {"rank": 1}

    @classmethod
    def tiny(cls) -> LoraConfig:
        return cls(rank=2, **cls.tiny_reading())


@register("lora")
class Lora(Parametric):
    """See the module's text and `LoraConfig`. Needs PEFT: `pip install "ltm[peft]"`.

    >>> model = Lora(load_backbone("smollm2-135m"), LoraConfig())  # doctest: +SKIP
    >>> model.read(past); model.generate(present, max_new_tokens=20)  # doctest: +SKIP
    """

    config_class = LoraConfig
    card = Card(
        "Hu et al., 2021, arXiv:2106.09685",
        "fine-tuning a ten-thousandth of the weights does as well as all of them",
        "learned while reading, one adapter a memory row; all matrices of the layers, through PEFT",
        needs_training=False,
    )

    def wrap(self, module: nn.Module) -> nn.Module:
        peft = import_peft()
        config, transposed = self.method_config, isinstance(module, Conv1D)
        alpha = config.rank if config.alpha is None else config.alpha
        holder = nn.ModuleDict({"wrapped": module})
        settings = peft.LoraConfig(
            r=config.rank, lora_alpha=alpha, target_modules=["wrapped"], fan_in_fan_out=transposed
        )
        return peft.inject_adapter_in_model(settings, holder, adapter_name=ADAPTER)["wrapped"]

    def delta(self, wrapped: Any) -> Tensor:
        return wrapped.get_delta_weight(ADAPTER)


def import_peft() -> Any:
    """The package, or a line on how to get it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import peft
    except ImportError as error:
        raise LtmError('method lora needs PEFT; get it with `pip install "ltm[peft]"`') from error
    return peft
