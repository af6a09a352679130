"""One uniform view of a decoder-only model's parts, found by structure and not by the model's name."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ltm.backbone.turns import lock_of, uncompiled
from ltm.compat import DynamicCache, cache_argument
from ltm.errors import LtmError

KNOWN_FAMILIES = "Llama, SmolLM, Mistral, Qwen2, Qwen3, Gemma 2, Gemma 3, Phi-3, GPT-NeoX (Pythia), GPT-2, OPT"

# What the projections that write into the residual stream are called, after attention and after the MLP.
_OUTPUT_NAMES = {"o_proj", "out_proj", "c_proj", "dense", "down_proj", "dense_4h_to_h", "fc2", "wo"}
_ROTATION_PROBE = (0, 3)  # two positions at which one token's keys are compared
_FINAL_NORM_NAMES = ("norm", "ln_f", "final_layer_norm", "final_layernorm")


class BackboneView:
    """The parts of a causal language model under one set of names, whatever its family calls them.

    model: a loaded transformers causal LM. Nothing is copied or changed; the modules are the model's own.
    Raises LtmError where the parts cannot be found or the attention interface does not reach the model.

    Attributes: decoder, layers, num_layers, hidden_size, num_heads, num_kv_heads, head_dim, vocab_size,
    max_positions (None: no limit), final_norm (None: the model has none), embeddings, head,
    rotary (None: positions are not rotary), project_out (None: the norm's output goes to the head as it is).

    >>> view = BackboneView(build_tiny("tiny-gpt2")[0])
    >>> view.num_layers, view.num_heads, view.head_dim
    (6, 4, 16)
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.config: Any = model.config.get_text_config()
        self.decoder = self._find_decoder()
        self.layers = self._find_layers()
        self._check_reachable()
        self.num_layers = len(self.layers)
        self.hidden_size = int(self.config.hidden_size)
        self.vocab_size = int(self.config.vocab_size)
        self.num_heads = int(self.config.num_attention_heads)
        self.num_kv_heads = self._find_num_kv_heads()
        self.head_dim = int(getattr(self.config, "head_dim", None) or self.hidden_size // self.num_heads)
        self.max_positions: int | None = getattr(self.config, "max_position_embeddings", None)
        self.embeddings: nn.Module = model.get_input_embeddings()
        self.head: nn.Module = model.get_output_embeddings()
        self.rotary: nn.Module | None = getattr(self.decoder, "rotary_emb", None)
        self._rotates_by_layer_type = (
            self.rotary is not None and "layer_type" in inspect.signature(self.rotary.forward).parameters
        )
        self.final_norm = self._find_final_norm()
        self.project_out: nn.Module | None = getattr(self.decoder, "project_out", None)
        self._rotation_known = False

    @property
    def has_rotary(self) -> bool:
        """Whether queries and keys are rotated by their position."""
        return self.rotary is not None

    def sliding_window(self, layer: int) -> int | None:
        """How many tokens, itself included, a token of this layer sees; None: all before it."""
        attention = self.attention(layer)
        own = getattr(attention, "sliding_window", None)
        if hasattr(attention, "sliding_window") or hasattr(self.config, "layer_types"):
            return own
        return getattr(self.config, "sliding_window", None)

    def angles(self, positions: Tensor, layer: int, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines [batch, tokens, rotary_dim] with which a layer rotates keys at positions (int64 [batch,
        tokens], also negative), for `ltm.attention.rotate`, with the model's own frequencies and scaling; in the
        model's dtype where none is given. None where positions are not rotary. LtmError as `check_rotation`."""
        self.check_rotation()
        return self._angles(positions, layer, dtype)

    def _angles(self, positions: Tensor, layer: int, dtype: torch.dtype | None) -> tuple[Tensor, Tensor] | None:
        if self.rotary is None:
            return None
        like = torch.empty(0, dtype=dtype or self.model.dtype, device=positions.device)
        if self._rotates_by_layer_type:  # Gemma 3: local and global layers turn at different speeds
            return self.rotary(like, positions, self.config.layer_types[layer])
        return self.rotary(like, positions)

    @property
    def pre_norm(self) -> bool:
        """Whether each layer adds to an un-normalised residual stream, so that residuals telescope.

        False for the layout of OPT-350m, which normalises the sum itself after every block.
        """
        return bool(getattr(self.config, "do_layer_norm_before", True))

    def attention(self, layer: int) -> nn.Module:
        """The attention module of backbone layer `layer` (zero-based)."""
        return _attention_of(self.layers[layer])[1]

    def mlp(self, layer: int) -> nn.Module:
        """What stands after attention in backbone layer `layer`: the module that holds its second output projection.

        OPT, whose layers hold those projections themselves, has none: LtmError.
        """
        own = self.layers[layer]
        wanted = self.output_projections(own)[1]
        for child in own.children():
            if any(module is wanted for module in child.modules()) and child is not wanted:
                return child
        raise LtmError(f"a layer of {type(self.model).__name__} has no module of its own for its MLP")

    def linears(self, which: str = "all") -> dict[str, nn.Module]:
        """The matrices of the decoder's layers by their names in the model: Linear, or GPT-2's Conv1D.

        which: 'attention' (queries, keys, values and output), 'mlp', 'all', or last parts of names with commas, such
        as 'q_proj,v_proj'. Raises LtmError where nothing is called so, with what there is.

        >>> list(view.linears("q_proj"))[:1]  # doctest: +SKIP
        ['model.layers.0.self_attn.q_proj']
        """
        found = self._matrices()
        if which == "all":
            return found
        if which in ("attention", "mlp"):
            own = {id(module) for layer in range(self.num_layers) for module in self.attention(layer).modules()}
            return {name: module for name, module in found.items() if (id(module) in own) == (which == "attention")}
        names = {name.strip() for name in which.split(",")}
        known = sorted({name.rpartition(".")[2] for name in found})
        if unknown := sorted(names - set(known)):
            raise LtmError(
                f"{type(self.model).__name__} has no matrix called {', '.join(unknown)} in its layers; use all, "
                f"attention, mlp, or of {', '.join(known)}"
            )
        return {name: module for name, module in found.items() if name.rpartition(".")[2] in names}

    def hidden(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """Normalised hidden states [batch, tokens, hidden_size] of embeddings [batch, tokens, hidden_size] that need be
        no token's; mask bool [batch, tokens], False = padding. Positions count what is no padding, from 0."""
        positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
        return self.decoder(
            inputs_embeds=embedded, attention_mask=mask.long(), position_ids=positions, use_cache=False
        ).last_hidden_state

    def output_projections(self, layer: nn.Module) -> list[nn.Module]:
        """The two modules of a layer that write into the residual stream: after attention, and after the MLP.

        layer: an element of `layers`, or a copy of one. With weight and bias of both at zero, and `pre_norm`,
        the layer returns its input. They are Linear, or GPT-2's Conv1D (whose weight is transposed).
        Raises LtmError where there are not exactly these two (mixtures of experts).
        """
        attention_name, _ = _attention_of(layer)
        found = [
            (name, module)
            for name, module in layer.named_modules()
            if name.rpartition(".")[2] in _OUTPUT_NAMES and self._is_projection(module)
        ]
        inside = [module for name, module in found if name.startswith(attention_name + ".")]
        outside = [module for name, module in found if not name.startswith(attention_name + ".")]
        if len(inside) != 1 or len(outside) != 1:
            raise LtmError(
                f"a layer of {type(self.model).__name__} has {len(inside)} attention and {len(outside)} MLP "
                f"output projections that are known, not one of each; known to work: {KNOWN_FAMILIES}."
            )
        return [inside[0], outside[0]]

    def logits(self, hidden_states: Tensor) -> Tensor:
        """Score the vocabulary from normalised hidden states as the model does, with its scale and soft cap.

        hidden_states: [batch, tokens, hidden_size], after a final norm. Returns [batch, tokens, vocab_size].
        """
        if self.project_out is not None:
            hidden_states = self.project_out(hidden_states)
        logits = self.head(hidden_states)
        logits = logits * (getattr(self.config, "logit_scale", None) or 1.0)  # Cohere
        logits = logits / (getattr(self.config, "logits_scaling", None) or 1.0)  # Granite
        cap = getattr(self.config, "final_logit_softcapping", None)  # Gemma 2
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _matrices(self) -> dict[str, nn.Module]:
        """Every Linear and Conv1D inside the layers, by name in the model."""
        own = {id(module) for module in self.layers.modules() if isinstance(module, (nn.Linear, Conv1D))}
        return {name: module for name, module in self.model.named_modules() if id(module) in own}

    def _is_projection(self, module: nn.Module) -> bool:
        width = module.nf if isinstance(module, Conv1D) else getattr(module, "out_features", None)
        return width == self.hidden_size

    def _find_decoder(self) -> nn.Module:
        decoder = self.model.get_decoder() if hasattr(self.model, "get_decoder") else None
        if decoder is None or decoder is self.model or getattr(self.config, "is_encoder_decoder", False):
            raise LtmError(
                f"{type(self.model).__name__} is not a decoder-only causal language model; "
                f"known to work: {KNOWN_FAMILIES}."
            )
        return decoder

    def _find_layers(self) -> nn.ModuleList:
        """The decoder's module list whose every element holds a module that knows its layer number."""
        for child in self.decoder.children():
            if isinstance(child, nn.ModuleList) and len(child) and all(_numbered_children(layer) for layer in child):
                return child
        raise self._unreachable()

    def _check_reachable(self) -> None:
        if not all(_uses_attention_interface(_attention_of(layer)[1]) for layer in self.layers):
            raise self._unreachable()

    def _unreachable(self) -> LtmError:
        return LtmError(
            f"{type(self.model).__name__} computes attention in its own way, out of reach of transformers' "
            f"attention interface, so memory cannot be attached; known to work: {KNOWN_FAMILIES}."
        )

    @torch.no_grad()
    def check_rotation(self) -> None:
        """Raise LtmError where keys turn with their position in another way than Llama's, which cannot be undone here.

        Asked before keys are taken without their positions; a window alone needs none of it. Told by what happens, not
        by names: a lone token has the same hidden states at any position, so its keys at two of them differ by the
        rotation alone. GPT-J, Cohere and GLM turn neighbouring channels, SmolLM3 not every layer.
        """
        if self._rotation_known or self.rotary is None:
            return
        weight: Any = self.embeddings.weight
        cache = DynamicCache()
        positions = torch.tensor(_ROTATION_PROBE, device=weight.device)[:, None]
        token = torch.linspace(-1, 1, weight.shape[1], device=weight.device, dtype=weight.dtype).expand(2, 1, -1)
        with lock_of(self.model), uncompiled():
            self.decoder(inputs_embeds=token, position_ids=positions, **cache_argument(cache), use_cache=True)
        for index, layer in enumerate(cache.layers):
            keys: Any = getattr(layer, "keys", None)
            angles = self._angles(positions, index, torch.float32)
            if keys is None or not isinstance(angles, tuple) or not _turns_by(keys.float(), *angles):
                raise LtmError(
                    f"{type(self.model).__name__} turns its keys by their position in its own way, which is not known "
                    f"here, so they cannot be remembered; known to work: {KNOWN_FAMILIES}."
                )
        self._rotation_known = True

    def _find_num_kv_heads(self) -> int:
        if getattr(self.config, "multi_query", False):
            return 1
        return int(getattr(self.config, "num_key_value_heads", None) or self.num_heads)

    def _find_final_norm(self) -> nn.Module | None:
        found = (getattr(self.decoder, name, None) for name in _FINAL_NORM_NAMES)
        return next((module for module in found if module is not None), None)


def _numbered_children(layer: nn.Module) -> list[tuple[str, nn.Module]]:
    """Direct children that carry an integer `layer_idx`: the attention, or what a layer has in its place."""
    return [
        (name, child) for name, child in layer.named_children() if isinstance(getattr(child, "layer_idx", None), int)
    ]


def _attention_of(layer: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of a decoder layer's self-attention."""
    numbered = _numbered_children(layer)
    return next((pair for pair in numbered if _uses_attention_interface(pair[1])), numbered[0])


def _turns_by(keys: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether keys [2, kv_heads, 1, head_dim] of one token differ by these angles [2, 1, rotary_dim], half by half."""
    half = cos.shape[-1] // 2
    (first, second), scale = keys[0, ..., : 2 * half].chunk(2, dim=-1), cos[0, ..., :half]  # at position 0
    cos, sin = cos[1, ..., :half], sin[1, ..., :half]
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1) / scale.repeat(1, 2)
    expected = torch.cat((turned, keys[0, ..., 2 * half :]), dim=-1)
    return torch.allclose(keys[1], expected, atol=0.05 * float(keys.abs().max()))  # bfloat16 keys


def _uses_attention_interface(attention: nn.Module) -> bool:
    """Whether the module's forward looks its attention function up in transformers' table of them.

    The class attribute `_supports_attention_backend` does not decide: StableLM leaves it False and works, and
    a hybrid with linear-attention layers may set it.
    """
    code = getattr(inspect.unwrap(type(attention).forward), "__code__", None)
    return code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names
