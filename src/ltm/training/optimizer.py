"""AdamW over what a method trains, gradients summed over processes, and its state as plain tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ltm.errors import LtmError

from .config import TrainConfig
from .protocol import TrainableMethod

_BACKBONE = "model."
"""How the names of a backbone's parameters begin, among those of a method."""
STATE_TENSORS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps for each parameter."""


def named_trainables(method: TrainableMethod, config: TrainConfig) -> dict[str, nn.Parameter]:
    """What a run trains, by name: the method's own weights or those that `train_only` names, and those of the backbone
    that `train_backbone` names. The others are frozen from here on. Raises LtmError where there is nothing."""
    named = dict(method.named_parameters())
    chosen = {**_own(method, named, config.train_only), **_of_backbone(named, config.train_backbone)}
    if not chosen:
        raise LtmError(f"{type(method).__name__} has nothing to train; choose a method with trained parts")
    for name, parameter in named.items():
        parameter.requires_grad_(name in chosen)
    return chosen


def _own(method: TrainableMethod, named: dict[str, nn.Parameter], only: str | None) -> dict[str, nn.Parameter]:
    """What a method trains beside its backbone; only: what a name must contain."""
    wanted = {id(parameter) for parameter in method.trainable_parameters()}
    found = {name: parameter for name, parameter in named.items() if id(parameter) in wanted}
    return _containing(found, only, "train_only") if found and only is not None else found


def freeze_backbone(parameters: Mapping[str, nn.Parameter]) -> None:
    """A backbone that was trained is frozen again, as everybody expects it to be."""
    for name, parameter in parameters.items():
        if name.startswith(_BACKBONE):
            parameter.requires_grad_(False)


def _of_backbone(named: dict[str, nn.Parameter], part: str | None) -> dict[str, nn.Parameter]:
    if part is None:
        return {}
    found = {name: p for name, p in named.items() if name.startswith(_BACKBONE)}
    chosen = _containing(found, part, "train_backbone")
    if other := {p.dtype for p in chosen.values()} - {torch.float32}:
        raise LtmError(
            f"train_backbone={part!r}, but the backbone is in {str(other.pop()).removeprefix('torch.')}, which would "
            "lose small steps; load it with dtype float32"
        )
    return chosen


def _containing(named: dict[str, nn.Parameter], part: str, option: str) -> dict[str, nn.Parameter]:
    chosen = {name: parameter for name, parameter in named.items() if part in name}
    if not chosen:
        parts = sorted({".".join(name.split(".")[:2]) for name in named})
        raise LtmError(f"{option}={part!r} is in no name of what is trained; its parts are {', '.join(parts)}")
    return chosen


def build_optimizer(parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; matrices decay, and norms, biases, gates and whatever else has one axis do not."""
    groups = [
        {"params": [p for p in parameters.values() if _is_matrix(p)], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters.values() if not _is_matrix(p)], "weight_decay": 0.0},
    ]
    betas = (config.adam_beta1, config.adam_beta2)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, betas=betas, eps=1e-8)


def _is_matrix(parameter: Tensor) -> bool:
    """Two axes or more that are longer than 1: a gate shaped [1, heads, 1, 1] is a vector."""
    return sum(size > 1 for size in parameter.shape) >= 2


def sum_gradients(parameters: Mapping[str, nn.Parameter], accelerator: Accelerator) -> None:
    """Replace each gradient by its sum over processes, in one message.

    A missing gradient counts as zero, so that every process sends the same layout and a parameter is treated
    alike whether its rows sit in one process or in several.

    By hand instead of DistributedDataParallel: a step calls the method several times and each call changes
    its memory; DDP would broadcast the frozen backbone and its buffers, hide the method's verbs behind a
    wrapper, and average over processes although these score different numbers of tokens. Only the few trained
    gradients travel.
    """
    for parameter in parameters.values():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if accelerator.num_processes == 1:
        return
    gradients = [parameter.grad for parameter in parameters.values() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    total = accelerator.reduce(flat, reduction="sum")
    for gradient, piece in zip(gradients, total.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(piece.view_as(gradient))


def share_weights(parameters: Mapping[str, nn.Parameter], accelerator: Accelerator) -> None:
    """Give every process the trained weights of the first, so that all start alike."""
    if accelerator.num_processes == 1:
        return
    with torch.no_grad():
        for parameter in parameters.values():
            kept = parameter if accelerator.is_main_process else torch.zeros_like(parameter)
            parameter.copy_(accelerator.reduce(kept.detach().clone(), reduction="sum"))


def gradient_norm(parameters: Mapping[str, nn.Parameter], max_norm: float | None) -> float:
    """Shorten the gradients to max_norm (None: leave them); returns their length before."""
    limit = float("inf") if max_norm is None else max_norm
    return float(nn.utils.clip_grad_norm_(list(parameters.values()), limit))


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimizer's state by "parameter name|what": plain tensors, no pickle."""
    return {
        f"{name}|{what}": optimizer.state[parameter][what].detach().cpu().contiguous()
        for name, parameter in parameters.items()
        for what in STATE_TENSORS
        if parameter in optimizer.state
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Take in what `optimizer_tensors` gave."""
    for name, parameter in parameters.items():
        if f"{name}|step" in tensors:
            state = {what: tensors[f"{name}|{what}"].clone() for what in STATE_TENSORS}
            moved = {what: t if what == "step" else t.to(parameter.device) for what, t in state.items()}
            optimizer.state[parameter] = moved
