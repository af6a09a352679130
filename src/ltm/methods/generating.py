"""What transformers' generate() asks of a reader, which it drives as if it were a plain model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ltm.compat import CACHE_NAME, GenerationMixin
from ltm.memory import LEFT_OUT
from ltm.methods.inputs import left_padded


class Generating(GenerationMixin):
    """The hooks of transformers' GenerationMixin, answered by a stream and its memory."""

    model: Any

    main_input_name = "input_ids"
    _is_stateful = False
    supports_gradient_checkpointing = True
    base_model_prefix = "model"

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """The tokens the cache has not seen yet, and what forward needs beside them."""
        stream, mask = kwargs[CACHE_NAME], kwargs.get("attention_mask")
        ids = input_ids[:, stream.get_seq_length() :]
        if mask is not None and not stream.get_seq_length():
            ids, mask = left_padded(ids, mask)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "cache": stream,
            "use_cache": True,
            "memory": kwargs.get("memory", LEFT_OUT),
            "memory_rows": kwargs.get("memory_rows"),
            "logits_to_keep": 1,
        }

    def can_generate(self) -> bool:
        return True

    def get_experts_implementation(self) -> Any:
        """generate() asks this of every model, to speed up mixtures of experts while decoding."""
        return self.model.get_experts_implementation()

    def set_experts_implementation(self, implementation: Any) -> None:
        self.model.set_experts_implementation(implementation)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False
