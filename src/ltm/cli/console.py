"""How commands speak: data to stdout, notices and progress to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text


class Interrupted(Exception):
    """Ctrl-C in the middle of something; the message says what is left and how to go on."""


notices = Console(stderr=True, highlight=False)
"""Everything that is not the result."""


def notice(text: str, style: str | None = None) -> None:
    """A line to stderr, as it is: no markup, no wrapping."""
    notices.print(text, style=style, markup=False, soft_wrap=True)


def ask_patience(text: str) -> None:
    """Say what takes a while, to a person: nothing where stderr is no terminal."""
    if notices.is_terminal:
        notice(f"{text} ...", style="dim")


def print_json(value: Any) -> None:
    """One JSON value to stdout, indented."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[Any]], left: int = 1) -> None:
    """A table to stdout; the first `left` columns are text, the others numbers."""
    Console(highlight=False, soft_wrap=not sys.stdout.isatty()).print(make_table(title, columns, rows, left))


def make_table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[Any]], left: int = 1) -> Table:
    """The same as a renderable."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return table


class Detail(ProgressColumn):
    """Shows a task's field `detail`, a text that says more than the bar."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("detail", "")), style="cyan")


class TimeLeft(ProgressColumn):
    """Time left, from the share that is done."""

    def render(self, task: Task) -> Text:
        seconds = task.time_remaining
        return Text("" if seconds is None else f"{format_seconds(seconds)} left", style="dim")


def make_progress(console: Console = notices) -> Progress:
    """A progress display on stderr; silent where stderr is no terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        Detail(),
        TimeLeft(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def format_bytes(count: float) -> str:
    """12 B, 3.4 kB, 56.7 MB, 8.9 GB: powers of 1,000."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def format_seconds(seconds: float) -> str:
    """0:07, 12:34, 1:02:03."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
