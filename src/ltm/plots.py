"""What all plots share: colours, smoothing, a figure of matplotlib, which is imported when the first one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ltm.errors import LtmError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, told apart by every eye; markers and lines tell them apart in print."""
GREY = "#8C959F"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches; no window system is touched. LtmError where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LtmError('matplotlib is missing, so no plot can be drawn; run: pip install "ltm[plot]"') from error
    return Figure(figsize=(width, height), layout="constrained")


def plain_axes(axes: Axes) -> None:
    """A light grid, and no frame above and to the right."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def smooth(values: Sequence[float], weights: Sequence[float], width: int) -> list[float]:
    """Mean over the last `width` values at each point, weighted; it never looks ahead.

    >>> smooth([4.0, 2.0, 0.0], [1, 1, 3], width=2)
    [4.0, 3.0, 0.5]
    """
    smoothed = []
    for end in range(1, len(values) + 1):
        window = slice(max(end - width, 0), end)
        total = sum(weights[window])
        smoothed.append(sum(v * w for v, w in zip(values[window], weights[window], strict=True)) / total)
    return smoothed
