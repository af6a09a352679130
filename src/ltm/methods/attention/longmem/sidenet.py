"""The SideNet: a light copy of every r-th backbone layer, tied to the backbone by cross-network residuals.

    h_side[0] = h_llm[0]                                                       (the backbone's embedding output)
    h_side[l] = layer_l(h_side[l-1]) + h_llm[r*l] - h_llm[r*(l-1)],  l = 1 ... L   (Wang et al., 2023, eq. 3)

Layer l starts from the weights of backbone layer r*l - 1 (zero-based, as released), or of r*(l-1) with
`copied_layer="first"`. Its decoder layer is the backbone's own class, called with the arguments that this backbone
layer was called with in the same pass (mask, rotary angles), so that every architecture works without knowing its
forward. The final norm is the SideNet's own copy, trained; embeddings and output head are the backbone's.

The paper's released layer runs attention and feed-forward in parallel on one norm, as its backbone does; ours is
whatever the backbone's layer is.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ltm.attention import ATTENTION_NAME, Plugin, Site, open_site
from ltm.backbone import BackboneView
from ltm.compat import Cache
from ltm.errors import ConfigError
from ltm.methods.attention.longmem.config import LongMemConfig
from ltm.methods.attention.longmem.pointer import Pointer

LayerCall = tuple[tuple, dict[str, Any]]
"""Positional and keyword arguments of a backbone layer, without the hidden states."""


class SideNet(nn.Module):
    """The trainable network beside a frozen backbone, float32 until told otherwise.

    view: of the backbone; config: sizes, fusion and start. Raises ConfigError where the backbone's layers cannot be
    tied (post-norm: residuals do not telescope) or the sizes do not fit.

    >>> SideNet(load_backbone("tiny-llama").view, LongMemConfig(reduction_factor=2)).num_layers  # doctest: +SKIP
    3
    """

    def __init__(self, view: BackboneView, config: LongMemConfig):
        super().__init__()
        config.check_layers(view.num_layers)
        if not view.pre_norm or view.final_norm is None:
            raise ConfigError("this backbone normalises after its residuals; a SideNet needs a pre-norm backbone")
        self.num_layers = view.num_layers // config.reduction_factor
        sources = config.copied_layers(view.num_layers)
        self.memory_layer = sources.index(config.resolved_memory_layer(view.num_layers))
        self.attention_name = _attention_attribute(view)
        own_config = copy.deepcopy(view.model.config)
        own_config._attn_implementation = ATTENTION_NAME
        self.layers = nn.ModuleList(_copy_layer(view, source, own_config) for source in sources)
        for index in range(self.num_layers):
            self.attention(index).layer_idx = index  # type: ignore[assignment]
        self.norm = copy.deepcopy(view.final_norm)
        self.memory_gate = nn.Parameter(torch.zeros(view.num_heads)) if config.fusion == "gate" else None
        self.pointer = Pointer(view.num_kv_heads, view.head_dim, view.hidden_size) if config.pointer else None
        self.float().requires_grad_(True)
        if config.start == "identity":
            self._start_as_identity(view)
        self.checkpointing = False

    def attention(self, index: int) -> nn.Module:
        """The attention module of SideNet layer `index` (zero-based)."""
        return getattr(self.layers[index], self.attention_name)

    def local_share(self) -> Tensor | None:
        """sigmoid(gate): each head's weight of the local side, [heads]; None with a shared softmax."""
        return None if self.memory_gate is None else torch.sigmoid(self.memory_gate)

    def forward(
        self,
        states: Sequence[Tensor],
        calls: Sequence[LayerCall],
        reader: Plugin | None,
        cache: Cache | None,
        observer: Plugin | None = None,
    ) -> Tensor:
        """The SideNet's normalised output, [batch, tokens, hidden_size] in its own dtype.

        states: h_llm[0], h_llm[r], ..., h_llm[r*L], each [batch, tokens, hidden_size]; calls: how the backbone called
        the layers that the SideNet's started from; reader: offers views to the memory layer (None: no memory); cache:
        the SideNet's own; observer: is given the memory layer's own keys and values. An observer that ends the pass
        needs states and calls up to that layer only.
        """
        dtype = self.norm_dtype
        hidden = states[0].to(dtype)
        viewers, observers = [p for p in (reader,) if p], [p for p in (observer,) if p]
        site = Site(self.memory_layer, observers, viewers) if viewers or observers else None
        for index, layer in enumerate(self.layers):
            output = self._run_layer(index, layer, hidden, calls[index], site, cache)
            hidden = output + (states[index + 1].to(dtype) - states[index].to(dtype))
        return self.norm(hidden)

    @property
    def norm_dtype(self) -> torch.dtype:
        return next(self.norm.parameters()).dtype

    def _run_layer(
        self,
        index: int,
        layer: nn.Module,
        hidden: Tensor,
        call: LayerCall,
        site: Site | None,
        cache: Cache | None,
    ) -> Tensor:
        args, kwargs = _with_cache(call, cache)
        attention = self.attention(index)

        def run(hidden: Tensor) -> Tensor:
            # the site opens inside, so that a recomputation in the backward pass finds it too
            opened = open_site(attention, site) if site is not None and index == site.layer else nullcontext()
            with opened:
                output = layer(hidden, *args, **kwargs)
            return output[0] if isinstance(output, tuple) else output

        if self.checkpointing and torch.is_grad_enabled() and cache is None:
            return checkpoint(run, hidden, use_reentrant=False)
        return run(hidden)

    def _start_as_identity(self, view: BackboneView) -> None:
        """Zero what each layer writes into the residual stream: the residuals then telescope to h_llm[r*L]."""
        with torch.no_grad():
            for layer in self.layers:
                for projection in view.output_projections(layer):
                    for parameter in projection.parameters():
                        parameter.zero_()


def _attention_attribute(view: BackboneView) -> str:
    """What a decoder layer of this family calls its attention ('self_attn', 'attn', 'attention')."""
    attention = view.attention(0)
    return next(name for name, child in view.layers[0].named_children() if child is attention)


def _copy_layer(view: BackboneView, index: int, config: Any) -> nn.Module:
    """A deep copy of a backbone layer whose modules hold `config` instead of the backbone's."""
    layer = view.layers[index]
    memo = {id(child.config): config for child in layer.modules() if hasattr(child, "config")}
    copied = copy.deepcopy(layer, memo)
    for child in copied.modules():
        child.__dict__.pop("forward", None)  # one set on the instance (torch.compile) is bound to the original
    return copied


def _with_cache(call: LayerCall, cache: Cache | None) -> LayerCall:
    """The same arguments with the SideNet's cache in the place of the backbone's."""
    args, kwargs = call
    args = tuple(cache if isinstance(value, Cache) else value for value in args)
    kwargs = {name: cache if isinstance(value, Cache) else value for name, value in kwargs.items()}
    return args, kwargs
