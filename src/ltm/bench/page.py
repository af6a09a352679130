"""A page as a list of blocks, written as Markdown with pictures beside it, or as one HTML file that holds them."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

from ltm.console import shown


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class CellText:
    """What stands in a table; the best of a row is bold."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """The first `left` columns are text, the others numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[CellText]]
    left: int = 1


@dataclass(frozen=True)
class Picture:
    """name: of its file, beside a Markdown page; png: its bytes."""

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Code:
    """Lines as they are."""

    text: str


MARKDOWN_MARK = "<!-- ltm bench report -->"
HTML_MARK = '<meta name="generator" content="ltm bench report">'
"""What a page begins with, so that a later report may replace it, and it alone."""

Block = Heading | Paragraph | Table | Picture | Code


def to_markdown(blocks: Sequence[Block]) -> str:
    """The page as GitHub's Markdown; pictures are named, not held."""
    return f"{MARKDOWN_MARK}\n\n" + "\n\n".join(map(_markdown, blocks)) + "\n"


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """The page as one HTML file that needs nothing else."""
    body = "\n".join(map(_html, blocks))
    return _PAGE.format(title=_escape(title), mark=HTML_MARK, style=_STYLE, body=body)


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_plain(text)}"
        case Paragraph(text):
            return _plain(text)
        case Picture(name, _, caption):
            return f"![{_plain(caption)}]({name})\n\n*{_plain(caption)}*"
        case Code(text):
            return f"```\n{shown(text, lines=True)}\n```"
        case Table(columns, rows, left):
            rule = [":---" if index < left else "---:" for index in range(len(columns))]
            marked = [[f"**{_plain(c.text)}**" if c.bold else _plain(c.text) for c in row] for row in rows]
            return "\n".join(f"| {' | '.join(line)} |" for line in [list(map(_plain, columns)), rule, *marked])


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{_escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_escape(text)}</p>"
        case Picture(_, png, caption):
            source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
            text = _escape(caption)
            return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'
        case Code(text):
            return f"<pre>{_escape(text)}</pre>"
        case Table():
            return _html_table(block)


def _html_table(table: Table) -> str:
    sides = ["text" if index < table.left else "number" for index in range(len(table.columns))]
    head = "".join(f'<th class="{s}">{_escape(c)}</th>' for s, c in zip(sides, table.columns, strict=True))
    body = "\n".join(f"<tr>{''.join(map(_html_cell, sides, row))}</tr>" for row in table.rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _html_cell(side: str, cell: CellText) -> str:
    text = _escape(cell.text)
    return f'<td class="{side}">{f"<b>{text}</b>" if cell.bold else text}</td>'


def _escape(text: str) -> str:
    return html.escape(shown(text, lines=True), quote=True)


def _plain(text: str) -> str:
    """A text whose signs mean nothing to Markdown."""
    text = shown(text)
    for sign in "\\|<*":
        text = text.replace(sign, f"\\{sign}")
    return text


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; max-width: 64rem;
       margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #d8dee4; padding-bottom: .3rem; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #d8dee4; white-space: nowrap; }
th { border-bottom: 2px solid #57606a; } tbody tr:hover { background: #f6f8fa; }
.number { text-align: right; } .text { text-align: left; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; }
figcaption { color: #57606a; font-size: .9rem; }
pre { background: #f6f8fa; padding: .8rem; overflow-x: auto; font-size: .85rem; }
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{mark}
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
