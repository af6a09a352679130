"""The loss plot, drawn from the log file of a run and from nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ltm.errors import LtmError
from ltm.plots import COLOURS, GREY, new_figure, plain_axes, smooth

from .log import read_log

SMOOTHING = 0.06
"""Share of the points that a smoothed value averages over."""


def plot_loss(log_path: str | Path, plot_path: str | Path) -> Path:
    """Draw the training loss, raw and smoothed, and the validation perplexities if the log has any.

    log_path: log.jsonl of a run. plot_path: .png, .svg or .pdf. Returns plot_path.
    Raises LtmError where the log has no training records, or matplotlib is missing.

    >>> plot_loss("out/log.jsonl", "out/loss.png")  # doctest: +SKIP
    PosixPath('out/loss.png')
    """
    records = read_log(log_path)
    train = [r for r in records if r["event"] == "train" and r["loss"] is not None]
    evaluations = [r for r in records if r["event"] == "eval" and r.get("perplexity") is not None]
    if not train:
        raise LtmError(f"{log_path} has no training steps to draw; train for at least one step")
    figure = new_figure(11 if evaluations else 6.5, 4.2)
    axes = figure.subplots(1, 2 if evaluations else 1, squeeze=False)[0]
    unit, name = _token_unit(train[-1]["tokens"])
    _draw_loss(axes[0], train, unit)
    if evaluations:
        _draw_perplexity(axes[1], evaluations, unit)
    for axis in axes:
        axis.set_xlabel(f"training tokens ({name})" if name else "training tokens")
        plain_axes(axis)
        axis.legend(frameon=False)
    figure.savefig(plot_path, dpi=150)
    return Path(plot_path)


def _draw_loss(axis: Any, train: list[dict[str, Any]], unit: float) -> None:
    tokens, losses = [r["tokens"] for r in train], [r["loss"] for r in train]
    weights = [max(now - before, 1) for before, now in zip([0, *tokens], tokens, strict=False)]
    width = max(round(SMOOTHING * len(train)), 1)
    at = [count / unit for count in tokens]
    axis.plot(at, losses, color=GREY, linewidth=0.8, alpha=0.7, label="each record")
    if width > 1:
        axis.plot(at, smooth(losses, weights, width), color=COLOURS[0], linewidth=2, label=f"mean of the last {width}")
    axis.set_ylabel("training loss (nats per token)")
    ends = smooth(losses, weights, width)
    axis.set_title(f"Loss {ends[0]:.3f} at the start, {ends[-1]:.3f} at the end", fontsize=11)


def _draw_perplexity(axis: Any, evaluations: list[dict[str, Any]], unit: float) -> None:
    at = [r["tokens"] / unit for r in evaluations]
    axis.plot(at, [r["perplexity"] for r in evaluations], color=COLOURS[0], marker="o", label="with memory")
    off = [
        (x, r["perplexity_memory_off"]) for x, r in zip(at, evaluations, strict=True) if r.get("perplexity_memory_off")
    ]
    if off:
        axis.plot(*zip(*off, strict=True), color=COLOURS[1], marker="s", linestyle="--", label="memory off")
    axis.set_ylabel("validation perplexity")
    first, last = evaluations[0]["perplexity"], evaluations[-1]["perplexity"]
    axis.set_title(f"Validation perplexity {first:.2f} → {last:.2f} ({last / first - 1:+.1%})", fontsize=11)


def _token_unit(most: int) -> tuple[float, str]:
    if most >= 2_000_000:
        return 1e6, "millions"
    return (1e3, "thousands") if most >= 2_000 else (1.0, "")
