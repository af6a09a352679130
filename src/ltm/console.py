"""How the library speaks to people: results to stdout, notices and progress to stderr, and text from elsewhere shown.

Names, texts and messages that come from files, models or other libraries reach a person through `shown` alone.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""What a terminal obeys, a line breaks at, turns its neighbours round or is half a character."""


PLAIN_LINE_SECONDS = 15.0
"""Least time between two plain lines, so that a log file of an hour stays short."""


class Interrupted(Exception):
    """Ctrl-C in the middle of something; the message says what is left and how to go on."""


class _Console(Console):
    """Without colours and pictures of its own making; a reader that went away is told to the caller."""

    def __init__(self, stderr: bool = False):
        super().__init__(stderr=stderr, highlight=False, emoji=False)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


notices = _Console(stderr=True)
"""Everything that is not the result."""
results = _Console()
"""Tables and pictures of letters; plain results are printed."""


def shown(text: str, lines: bool = False) -> str:
    """A text as a person may see it: what is not there to be looked at stands as its escape.

    lines: line ends and tabs stay, for a text of several lines. Bytes of a file name that are no UTF-8 come as bytes.

    >>> print(shown("two\\nlines \\x1b[31mred"))
    two\\nlines \\x1b[31mred
    """
    return _HIDDEN.sub(lambda found: found[0] if lines and found[0] in "\n\t" else _escape(found[0]), text)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def shell_line(*words: object) -> str:
    """Words as a line that a shell takes, with names of any kind.

    >>> shell_line("ltm", "ask", "my bank", "Who?")
    "ltm ask 'my bank' 'Who?'"
    """
    return " ".join(_shell_word(str(word)) for word in words)


def _shell_word(word: str) -> str:
    if not _HIDDEN.search(word):
        return shlex.quote(word)
    return "$'" + shown(word.replace("\\", "\\\\").replace("'", "\\'")) + "'"


def notice(text: str, style: str | None = None) -> None:
    """A line to stderr, as it is: no markup, no wrapping."""
    notices.print(shown(text), style=style, markup=False, soft_wrap=True)


def next_step(*words: object) -> None:
    """The command that goes on from here, ready to be pasted."""
    notice(f"next: {shell_line(*words)}", style="dim")


def ask_patience(text: str) -> None:
    """Say what takes a while, to a person: nothing where stderr is no terminal."""
    if notices.is_terminal:
        notice(f"{text} ...", style="dim")


@contextmanager
def working(message: str) -> Iterator[None]:
    """Show that something slow runs: a spinner with the message on a terminal, the plain line elsewhere."""
    if not notices.is_terminal:
        notice(message)
        yield
        return
    with notices.status(Text(shown(message))):
        yield


def write(text: str) -> None:
    """A stretch of a text to stdout, at once."""
    sys.stdout.write(shown(text, lines=True))
    sys.stdout.flush()


def print_json(value: Any) -> None:
    """One JSON value to stdout, indented."""
    print(json_text(value, indent=2))


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON of the same value, with escapes for what `shown` escapes and for what stdout cannot write."""
    text = hidden_as_json(json.dumps(value, indent=indent, ensure_ascii=False))
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def hidden_as_json(text: str) -> str:
    """JSON with escapes of its own, which say the same, for what `shown` escapes."""
    return _HIDDEN.sub(lambda found: "\n" if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def print_table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[Any]], left: int = 1) -> None:
    """A table to stdout; the first `left` columns are text, the others numbers."""
    results.print(make_table(title, columns, rows, left), soft_wrap=not results.is_terminal)


def make_table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[Any]], left: int = 1) -> Table:
    """The same as a renderable."""
    table = Table(title=None if title is None else _text(title), title_justify="left", title_style="bold")
    table.header_style = "bold"
    for index, column in enumerate(columns):
        table.add_column(_text(column), justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(_text, row))
    return table


def _text(cell: Any) -> Text:
    return Text(shown(cell.plain), cell.style) if isinstance(cell, Text) else Text(shown(str(cell)))


class Name(ProgressColumn):
    """A task's description, which may be a document's name."""

    def render(self, task: Task) -> Text:
        return Text(shown(task.description))


class Detail(ProgressColumn):
    """Shows a task's field `detail`, a text that says more than the bar."""

    def render(self, task: Task) -> Text:
        return Text(shown(str(task.fields.get("detail", ""))), style="cyan")


class TimeLeft(ProgressColumn):
    """Time left, from the share that is done."""

    def render(self, task: Task) -> Text:
        seconds = task.time_remaining
        return Text("" if seconds is None else f"{format_seconds(seconds)} left", style="dim")


def make_progress(console: Console = notices, time_left: bool = True) -> Progress:
    """A progress display on stderr; silent where stderr is no terminal."""
    return Progress(
        SpinnerColumn(),
        Name(),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        Detail(),
        *((TimeLeft(),) if time_left else ()),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


class RunDisplay:
    """Context manager that shows how a long run goes: a bar with figures, or without a terminal a line now and then.

    enabled: False shows nothing (all processes but the first, or quiet). console: default stderr.

    >>> with RunDisplay(enabled=False) as display:
    ...     display.update(0.5, seconds=60.0, facts={"loss": 3.2})
    """

    def __init__(self, enabled: bool = True, console: Console | None = None):
        self.console, self.enabled = console or notices, enabled
        self._bar: Progress | None = None
        if enabled and self.console.is_terminal:
            self._bar = Progress(BarColumn(bar_width=20), TaskProgressColumn(), Detail(), console=self.console)
            self._task = self._bar.add_task("train", total=1.0, detail="starting")
        self._last_line = -PLAIN_LINE_SECONDS

    def __enter__(self) -> RunDisplay:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, fraction: float, *, seconds: float, facts: Mapping[str, Any], force: bool = False) -> None:
        """Show figures. fraction: 0 to 1 of the run; seconds: time so far; force: print a plain line now."""
        text = " · ".join(f"{name} {_short(value)}" for name, value in facts.items() if value is not None)
        text += f" · {format_seconds(seconds * (1 - fraction) / fraction)} left" if fraction > 0 else ""
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


@contextmanager
def quiet(*, downloads: bool = False) -> Iterator[None]:
    """A block in which other libraries say nothing while a model is fetched, converted or loaded: no warnings, no bars;
    then every switch is put back as it was.

    downloads: leave the hub's own bars on, for a block that may fetch gigabytes; otherwise the block writes
    nothing to stderr at all (the GGUF reader draws a bar that has no switch).
    """
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    had_bars = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if downloads and had_bars:
        enable_progress_bars()
    try:
        with warnings.catch_warnings(), nullcontext() if downloads else redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        (transformers_logging.enable_progress_bar if had_bars else disable_progress_bars)()
