"""Plots of lines of results: along a length, against bytes, as a heat map. matplotlib is imported at the first one."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltm.bench.tables import Line, Value, condition_text
from ltm.plots import COLOURS, GREY, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = {
    "position": "place in the document (tokens, upper end of each range)",
    "length": "length (tokens)",
    "remembered": "demonstrations in memory",
}
"""Conditions that are drawn along an axis."""
MOST_PANELS = 12

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_UNKNOWN_COST = " (no bytes a token)"
_LETTERS_PER_INCH, _HANDLE_LETTERS = 13, 8


@dataclass(frozen=True)
class Style:
    """How a method looks on every plot."""

    colour: str
    marker: str
    line: str


@dataclass(frozen=True)
class Panel:
    """One set of axes: its title, the lines in it, and what stands on the horizontal axis for each."""

    title: str
    lines: Sequence[Line]
    places: Sequence[float]


def styles(labels: Sequence[str]) -> dict[str, Style]:
    """One look for each method; after seven colours, markers and lines are others for the same colour."""
    lines = ("-", "--", ":", "-.")
    return {
        label: Style(
            COLOURS[index % len(COLOURS)],
            _MARKERS[(index + index // len(COLOURS)) % len(_MARKERS)],
            lines[index // len(COLOURS) % len(lines)],
        )
        for index, label in enumerate(labels)
    }


def panels_along(lines: Sequence[Line], axis: str) -> list[Panel]:
    """Lines that differ in `axis` alone, together; fewer than two places make no panel."""
    grouped: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        grouped.setdefault(tuple(pair for pair in line.condition if pair[0] != axis), []).append(line)
    panels = []
    for rest, own in grouped.items():
        own = sorted(own, key=lambda line: dict(line.condition)[axis])
        places = [dict(line.condition)[axis] for line in own]
        if len(set(places)) > 1:
            panels.append(Panel(_panel_title(rest), own, places))
    return panels


def plot_along(panels: Sequence[Panel], axis: str, look: Mapping[str, Style]) -> bytes:
    """Each method's value along a condition, with its interval as a band; PNG bytes."""
    figure, grid = _figure(len(panels))
    for panel, axes in zip(panels, grid, strict=False):
        for label, style in look.items():
            _draw_method(axes, panel, label, style)
        _draw_chance(axes, panel)
        _log_axis(axes, sorted(set(panel.places)))
        _dress(axes, panel.title, _metric_name(panel.lines[0]), AXES[axis])
    _legend(figure, grid)
    return _png(figure)


def plot_cost(lines: Sequence[Line], cost: Mapping[str, float | None], look: Mapping[str, Style]) -> bytes:
    """Each method's value against the bytes that it keeps for a token; PNG bytes. A panel a condition.

    cost: None for a method that keeps nothing beyond its window, or where it is not known: a line across.
    """
    figure, grid = _figure(min(len(lines), MOST_PANELS))
    places = sorted({value for value in cost.values() if value})
    for line, axes in zip(lines, grid, strict=False):
        axes.set_xscale("log")
        for label, value in line.compared.items():
            _draw_cost(axes, label, value, cost[label], look[label])
        axes.margins(x=0.25, y=0.1)
        axes.set_xticks(places, [_bytes(place) for place in places])
        axes.minorticks_off()
        _dress(axes, _panel_title(line.condition), _metric_name(line), "memory (bytes a token)")
    _legend(figure, grid)
    return _png(figure)


def plot_heat(lines: Sequence[Line], labels: Sequence[str]) -> bytes:
    """A map of length and depth for each method (columns) and whatever else the conditions say (rows); PNG bytes."""
    grouped: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        rest = tuple(pair for pair in line.condition if pair[0] not in ("length", "depth"))
        grouped.setdefault(rest, []).append(line)
    shown = [(rest, own, label) for rest, own in grouped.items() for label in labels][: 2 * MOST_PANELS]
    figure, grid = _figure(len(shown), columns=min(len(labels), 4))
    low, high = _scale(lines)
    for (rest, own, label), axes in zip(shown, grid, strict=True):
        image = _draw_heat(axes, own, label, low, high)
        _dress(
            axes, ", ".join(filter(None, (label, _panel_title(rest)))), "depth (beginning at the top)", AXES["length"]
        )
        axes.grid(False)
    figure.colorbar(image, ax=grid, label=_metric_name(lines[0]), shrink=0.8)
    return _png(figure)


def _draw_cost(axes: Axes, label: str, value: Value, cost: float | None, style: Style) -> None:
    if not cost:
        axes.axhline(value.value, color=style.colour, linestyle="--", linewidth=1.2, label=label + _UNKNOWN_COST)
        return
    bars = None
    if value.low is not None and value.high is not None:
        bars = [[max(value.value - value.low, 0.0)], [max(value.high - value.value, 0.0)]]
    axes.errorbar(
        [cost],
        [value.value],
        yerr=bars,
        color=style.colour,
        marker=style.marker,
        linestyle="none",
        capsize=3,
        markersize=7,
        label=label,
    )


def _draw_method(axes: Axes, panel: Panel, label: str, style: Style) -> None:
    values = [(x, line.compared.get(label)) for x, line in zip(panel.places, panel.lines, strict=True)]
    found = [(x, value) for x, value in values if value is not None]
    if not found:
        return
    places = [x for x, _ in found]
    axes.plot(
        places,
        [value.value for _, value in found],
        color=style.colour,
        marker=style.marker,
        linestyle=style.line,
        markersize=5,
        label=label,
    )
    banded = [(x, value.low, value.high) for x, value in found if value.low is not None and value.high is not None]
    if banded:
        x, low, high = zip(*banded, strict=True)
        axes.fill_between(x, low, high, color=style.colour, alpha=0.12, linewidth=0)


def _draw_chance(axes: Axes, panel: Panel) -> None:
    chances = {value.chance for line in panel.lines for value in line.values.values()}
    if len(chances) == 1 and (chance := chances.pop()) is not None:
        axes.axhline(chance, color=GREY, linestyle=":", linewidth=1.2, label="chance")


def _draw_heat(axes: Axes, lines: Sequence[Line], label: str, low: float, high: float) -> Any:
    """The image, with each value written on it; the better, the brighter."""
    values = {
        (dict(line.condition)["depth"], dict(line.condition)["length"]): line.values[label].value
        for line in lines
        if label in line.values
    }
    depths, lengths = (sorted({dict(line.condition)[name] for line in lines}) for name in ("depth", "length"))
    table = [[values.get((depth, length), math.nan) for length in lengths] for depth in depths]
    colours = "viridis" if lines[0].higher_is_better else "viridis_r"
    image: Any = axes.imshow(table, vmin=low, vmax=high, cmap=colours, aspect="auto")
    axes.set_xticks(range(len(lengths)), [_tokens(length) for length in lengths])
    axes.set_yticks(range(len(depths)), [condition_text(depth) for depth in depths])
    for y, row in enumerate(table):
        for x, value in enumerate(row):
            text = "–" if math.isnan(value) else f"{value:.2f}"
            red, green, blue, opaque = image.to_rgba(value)
            dark = opaque and 0.21 * red + 0.72 * green + 0.07 * blue < 0.5
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    return image


def _scale(lines: Sequence[Line]) -> tuple[float, float]:
    """0 to 1 for shares, else what the values cover."""
    values = [value.value for line in lines for value in line.values.values()]
    low, high = min(values), max(values)
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)


def _figure(count: int, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """A figure with at least `count` axes; those too many are hidden."""
    columns = min(columns, 2) if count == 4 else min(columns, count)
    rows = -(-count // columns)
    figure = new_figure(max(4.4 * columns, 6.0), 3.3 * rows + 0.6)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, grid[:count]


def _log_axis(axes: Axes, places: Sequence[float]) -> None:
    """Places that double stand evenly; 0 is let in beside the smallest of the others."""
    if min(places) > 0:
        axes.set_xscale("log", base=2)
    else:
        axes.set_xscale("symlog", base=2, linthresh=min(place for place in places if place > 0))
    axes.set_xticks(list(places), [_tokens(place) for place in places])
    axes.minorticks_off()


def _dress(axes: Axes, title: str, ylabel: str, xlabel: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(xlabel, fontsize=9)
    axes.set_ylabel(ylabel, fontsize=9)
    axes.tick_params(labelsize=8)
    plain_axes(axes)


def _legend(figure: Figure, grid: Sequence[Axes]) -> None:
    """One legend below all panels, in as many columns as fit its width."""
    entries = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    labels = sorted(entries, key=lambda label: label.endswith(_UNKNOWN_COST))
    longest = max(map(len, labels), default=0) + _HANDLE_LETTERS
    columns = int(figure.get_figwidth() * _LETTERS_PER_INCH / longest)
    handles = [entries[label] for label in labels]
    figure.legend(
        handles, labels, loc="outside lower center", ncols=max(min(columns, len(labels)), 1), frameon=False, fontsize=9
    )


def _metric_name(line: Line) -> str:
    return f"{line.metric.replace('_', ' ')} ({'higher' if line.higher_is_better else 'lower'} is better)"


def _panel_title(condition: Sequence[tuple[str, Any]]) -> str:
    """`books`, or with a name that the value does not tell: `local 4`."""
    named = ("kind", "dataset", "variant")
    return ", ".join(str(v) if name in named else f"{name} {condition_text(v)}" for name, v in condition)


def _tokens(count: float) -> str:
    """512, 1k, 16k: thousands of 1,024 where they come out whole, else of 1,000."""
    whole = int(count)
    for unit in (1024, 1000):
        if whole >= unit and whole % unit == 0:
            return f"{whole // unit}k"
    return f"{whole:,}"


def _bytes(count: float) -> str:
    """Three digits: 304 B, 1.02 kB, 23 kB."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _png(figure: Figure) -> bytes:
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=150)
    return written.getvalue()
