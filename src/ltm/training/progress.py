"""Live progress on stderr: a bar with figures in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn

from ltm.console import Detail, notices, shown

PLAIN_LINE_SECONDS = 15.0
"""Least time between two plain lines, so that a log file of an hour stays short."""


class ProgressDisplay:
    """Context manager that shows how a run goes.

    enabled: False shows nothing (all processes but the first, or quiet). console: default stderr.

    >>> with ProgressDisplay(enabled=False) as display:
    ...     display.update(0.5, seconds=60.0, facts={"loss": 3.2})
    """

    def __init__(self, enabled: bool = True, console: Console | None = None):
        self.console, self.enabled = console or notices, enabled
        self._bar: Progress | None = None
        if enabled and self.console.is_terminal:
            self._bar = Progress(BarColumn(bar_width=20), TaskProgressColumn(), Detail(), console=self.console)
            self._task = self._bar.add_task("train", total=1.0, detail="starting")
        self._last_line = -PLAIN_LINE_SECONDS

    def __enter__(self) -> ProgressDisplay:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, fraction: float, *, seconds: float, facts: Mapping[str, Any], force: bool = False) -> None:
        """Show figures. fraction: 0 to 1 of the run; seconds: time so far; force: print a plain line now."""
        text = " · ".join(f"{name} {_short(value)}" for name, value in facts.items() if value is not None)
        text += f" · {_clock(seconds * (1 - fraction) / fraction)} left" if fraction > 0 else ""
        if self._bar is not None:
            self._bar.update(self._task, completed=fraction, detail=text)
        elif force or fraction >= 1 or time.monotonic() - self._last_line >= PLAIN_LINE_SECONDS:
            self._last_line = time.monotonic()
            self.message(f"{fraction:4.0%} · {text}")

    def message(self, text: str) -> None:
        """A line that stays."""
        if self.enabled:
            self.console.print(shown(text), markup=False, soft_wrap=True)


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
