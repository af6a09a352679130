"""attach(): put plugins on a model for the length of a `with` block, and take them off without a trace."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ltm.attention.function import ATTENTION_NAME, LocalView, Site, open_site
from ltm.attention.views import View
from ltm.backbone.turns import Turn, lock_of, uncompiled
from ltm.compat import get_attention_name, set_attention_name
from ltm.errors import LtmError

if TYPE_CHECKING:
    from ltm.backbone import BackboneView


class StopForward(Exception):
    """Raised by a plugin that has what it came for: the rest of the forward pass is not needed."""


class Plugin:
    """Something that watches or changes a model at its public hooks while attached.

    Name the layers in `observed_layers`, `viewed_layers`, `local_layers`, `mixed_layers` and `entered_layers`, and
    override what they lead to.
    Layers are zero-based backbone layers. Plugins of one `attach` are called in the order given.

    >>> class CountKeys(Plugin):
    ...     observed_layers = (0,)
    ...     def observe(self, layer, keys, values): print(keys.shape)
    """

    observed_layers: Collection[int] = ()
    """Layers whose new keys and values `observe` is given."""
    viewed_layers: Collection[int] = ()
    """Layers whose attention also looks at what `views` returns."""
    local_layers: Collection[int] = ()
    """Layers whose attention over the cache's own keys and values `attend_local` may compute in its own way."""
    mixed_layers: Collection[int] = ()
    """Layers whose attention module's output `mix` may replace."""
    entered_layers: Collection[int] = ()
    """Layers for which `enter_layer` is called."""

    watches_local: bool = False
    """Whether `attended` is called for the viewed layers."""

    def observe(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """New position-free keys and values of a call, [batch, kv_heads, tokens, head_dim]. May raise StopForward."""

    def views(self, layer: int, query: Tensor) -> Sequence[View]:
        """Extra views for the position-free query [batch, heads, tokens, head_dim]."""
        return ()

    def used(self, layer: int, view: View, weights: Tensor) -> None:
        """The softmax weights [batch, heads, tokens, slots] that one of this plugin's views received."""

    def attended(self, layer: int, local: LocalView, lse: Tensor) -> None:
        """What the local view looked at, and the log-sum-exp [batch, heads, tokens] of the softmax that it shares with
        the extra views: exp(logit - lse) is a local key's weight."""

    def attend_local(self, layer: int, local: LocalView) -> Tensor | None:
        """Local attention's output [batch, heads, tokens, head_dim] in the place of the usual one, which is full
        attention under `local.mask`; None leaves it. It has no log-sum-exp: with it other plugins' views must be gated,
        and none may watch."""
        return None

    def mix(self, layer: int, hidden: Tensor, attended: Tensor) -> Tensor | None:
        """The attention module was given hidden states and returned `attended`, both [batch, tokens, hidden_size]; a
        tensor returned takes the place of its output."""
        return None

    def enter_layer(self, layer: int, hidden: Tensor, args: tuple, kwargs: dict[str, Any]) -> None:
        """A decoder layer is called with hidden states [batch, tokens, hidden_size] and these further arguments."""

    def finish(self, hidden: Tensor) -> Tensor | None:
        """The final norm was given `hidden` [batch, tokens, hidden_size]; a tensor returned replaces its output."""
        return None


@contextmanager
def attach(view: BackboneView, *plugins: Plugin) -> Iterator[None]:
    """Run the model of `view` with plugins attached; afterwards it is bit for bit what it was.

    Keys and values reach plugins through the registered attention function, so the model's attention
    implementation is 'ltm' inside the block. Nothing is attached twice: a second `attach` inside the block
    on the same layer raises RuntimeError. Another thread that attaches to the same model waits until the block ends;
    one that runs the model alone sees nothing of what is attached here. What torch.compile made of the model is left
    aside inside the block: compiled code does not see what is attached. LtmError where the model ran without reaching
    it all the same, and where its keys cannot be freed of their positions.

    >>> with attach(backbone.view, plugin):  # doctest: +SKIP
    ...     backbone.model(input_ids)
    """
    with ExitStack() as stack:
        stack.enter_context(lock_of(view.model))
        stack.enter_context(uncompiled())
        sites = _sites(view.num_layers, plugins)
        if sites:
            view.check_rotation()
            stack.enter_context(_attention_name(view.model, ATTENTION_NAME))
        for index, site in sites.items():
            stack.enter_context(open_site(view.attention(index), site))
        for plugin in plugins:
            _hook_layers(stack, view, plugin)
        yield
        if sites and not any(site.was_reached for site in sites.values()):
            raise LtmError(
                f"{type(view.model).__name__} ran past what is attached to it: another forward stands in the place of "
                "its own (a copy of a compiled model, say); load the model plainly for memory"
            )


def _sites(num_layers: int, plugins: Sequence[Plugin]) -> dict[int, Site]:
    sites = {}
    for index in range(num_layers):
        observers = [plugin for plugin in plugins if index in plugin.observed_layers]
        viewers = [plugin for plugin in plugins if index in plugin.viewed_layers]
        attending = [plugin for plugin in plugins if index in plugin.local_layers]
        if observers or viewers or attending:
            sites[index] = Site(index, observers, viewers, attending)
    return sites


def _hook_layers(stack: ExitStack, view: BackboneView, plugin: Plugin) -> None:
    turn = Turn()
    for index in plugin.entered_layers:

        def enter(module: nn.Module, args: tuple, kwargs: dict[str, Any], index: int = index) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            plugin.enter_layer(index, hidden, args[1:], kwargs)

        stack.callback(view.layers[index].register_forward_pre_hook(turn.only(enter), with_kwargs=True).remove)
    for index in plugin.mixed_layers:

        def mix(
            module: nn.Module, args: tuple, kwargs: dict[str, Any], output: tuple, index: int = index
        ) -> tuple | None:
            mixed = plugin.mix(index, args[0] if args else kwargs["hidden_states"], output[0])
            return None if mixed is None else (mixed, *output[1:])

        stack.callback(view.attention(index).register_forward_hook(turn.only(mix), with_kwargs=True).remove)
    if type(plugin).finish is not Plugin.finish:
        assert view.final_norm is not None

        def finish(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            return plugin.finish(args[0])

        stack.callback(view.final_norm.register_forward_hook(turn.only(finish)).remove)


@contextmanager
def _attention_name(model: nn.Module, name: str) -> Iterator[None]:
    before = get_attention_name(model)
    set_attention_name(model, name)
    try:
        yield
    finally:
        set_attention_name(model, before)
