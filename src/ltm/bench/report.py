"""A page of tables and plots made from a folder of result files, and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ltm.bench.page import (
    HTML_MARK,
    MARKDOWN_MARK,
    Block,
    CellText,
    Code,
    Heading,
    Paragraph,
    Picture,
    Table,
    to_html,
    to_markdown,
)
from ltm.bench.plots import styles
from ltm.bench.results import Result, read_results
from ltm.bench.tables import sections
from ltm.bench.task_section import section_blocks
from ltm.errors import LtmError
from ltm.outputs import IsOwn, begins_with, check_output, write_output

KIND = "part of an earlier report of this name"
_is_page = begins_with(MARKDOWN_MARK)


def write_report(folder: str | Path, out: str | Path, title: str = "Benchmark results") -> tuple[Path, Path]:
    """Write the page `out` (.md, its pictures beside it) and the same as one .html file; returns both paths.

    Raises LtmError where the folder holds no results, or a file of it cannot be read, and
    where other files of these names are in the way.

    >>> write_report("results", "page.md")  # doctest: +SKIP
    (PosixPath('page.md'), PosixPath('page.html'))
    """
    if not Path(out).name.strip():
        raise LtmError(f"out={str(out)!r} names no file; give the page a name: --out page.md")
    markdown = Path(out).with_suffix(".md")
    page = markdown.with_suffix(".html")
    blocks = make_page(read_results(folder), title, markdown.stem)
    before = markdown.read_text("utf-8", "replace") if markdown.is_file() and _is_page(markdown) else ""
    markdown.parent.mkdir(parents=True, exist_ok=True)
    files: list[tuple[Path, str | bytes, IsOwn]] = [
        (markdown.parent / block.name, block.png, lambda path: f"]({path.name})" in before)
        for block in blocks
        if isinstance(block, Picture)
    ]
    files += [(markdown, to_markdown(blocks), _is_page), (page, to_html(title, blocks), begins_with(HTML_MARK))]
    for file, _, is_own in files:  # all of them before the first is written
        check_output(file, is_own, KIND)
    for file, content, is_own in files:
        write_output(file, content, is_own, KIND)
    return markdown, page


def make_page(results: Sequence[Result], title: str, stem: str) -> list[Block]:
    """All blocks of the page; stem: how the names of its pictures begin."""
    own = sections(results)
    look = styles(list(dict.fromkeys(label for section in own for label in section.labels)))
    blocks: list[Block] = [Heading(title, 1), Paragraph(_INTRODUCTION)]
    for index, section in enumerate(own):
        blocks += section_blocks(section, look, f"{stem}-{index + 1}-{section.task}")
    blocks += _failures([result for result in results if result.failed])
    return [*blocks, *_origins(results)]


_INTRODUCTION = (
    "Values with their 95% interval in brackets; the best of a row is bold. †: measured on less than the others "
    "of the row, and so not compared nor drawn. n: examples, or documents, behind each value. A method looks the same "
    "on every plot; bands and bars are the intervals."
)


def _failures(failed: Sequence[Result]) -> list[Block]:
    if not failed:
        return []
    rows = [[CellText(result.task), CellText(result.label), CellText(result.facts["error"])] for result in failed]
    return [Heading("Not measured"), Table(["task", "method", "why"], rows, left=3)]


def _origins(results: Sequence[Result]) -> list[Block]:
    """Where each file came from, and the commands that made them."""
    commands: dict[str, list[str]] = {}
    for result in results:
        commands.setdefault(result.facts["command"], []).append(result.path.name)
    lines = [line for command, files in commands.items() for line in (*(f"# {file}" for file in files), command, "")]
    columns = ["file", "date", "commit", "versions", "machine"]
    rows = [[CellText(text) for text in _origin(result.path.name, result.facts)] for result in results]
    return [Heading("How these files were made"), Code("\n".join(lines).strip()), Table(columns, rows, left=5)]


def _origin(name: str, facts: Mapping[str, Any]) -> list[str]:
    versions = ", ".join(f"{package} {version}" for package, version in facts["versions"].items())
    machine = facts["machine"]
    where = f"{machine['gpu'] or machine['processor']}, {machine['cores']} cores, {machine['threads']} threads"
    return [name, facts["date"][:10], facts["commit"] or "–", versions, where]
