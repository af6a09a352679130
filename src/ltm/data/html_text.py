"""The text that a reader of an HTML page sees, by the parser of the standard library."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_UNSEEN = {"script", "style", "template", "noscript"}
_BLOCKS = set(
    re.findall(
        r"\w+",
        "address article aside blockquote body br caption dd div dl dt fieldset figcaption figure footer form h1 h2 h3 "
        "h4 h5 h6 head header hr html li main nav ol option p pre section table tbody textarea tfoot thead title tr ul",
    )
)
_PARAGRAPHS = _BLOCKS - {"br", "caption", "dd", "dt", "li", "option", "tr"}
_CELLS = {"td", "th"}
_SPACE = re.compile(r"[ \t\n\r\f]+")
_BEGINNING = re.compile(r"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL)


def looks_like_html(text: str) -> bool:
    """Whether a text begins as HTML pages do."""
    return _BEGINNING.match(text[:4096]) is not None


def html_text(page: str) -> str:
    """Title and visible text: paragraphs apart, other blocks on lines of their own, white space as it is shown.

    >>> html_text("<style>a{}</style><p>Hello &amp; <b>bye</b></p><p>Again</p>")
    'Hello & bye\\n\\nAgain\\n'
    """
    reader = _Reader()
    reader.feed(page)
    reader.close()
    lines = [line.strip(" ") if not line.startswith("\0") else line[1:] for line in "".join(reader.parts).split("\n")]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
    return text + "\n" if text else ""


class _Reader(HTMLParser):
    """Collects text; "\\0" begins a line whose spaces are kept."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.unseen = self.kept = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.unseen += tag in _UNSEEN
        self._break(tag)
        self.kept += tag in ("pre", "textarea")

    def handle_endtag(self, tag: str) -> None:
        self.unseen = max(self.unseen - (tag in _UNSEEN), 0)
        self.kept = max(self.kept - (tag in ("pre", "textarea")), 0)
        self._break(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._break(tag)

    def parse_marked_section(self, i: int, report: int = 1) -> int:
        """`<![...]>` is passed over; the parser's own raises AssertionError for most of what may stand there."""
        return self.rawdata.find(">", i) + 1 or -1

    def handle_data(self, data: str) -> None:
        if self.unseen:
            return
        data = data.replace("\0", "")
        if self.kept:
            self.parts.append("\0" + data.replace("\n", "\n\0"))
            return
        words = _SPACE.sub(" ", data)
        if self.parts and self.parts[-1].endswith(" "):
            words = words.lstrip(" ")
        self.parts.append(words)

    def _break(self, tag: str) -> None:
        if tag in _CELLS:
            self.handle_data(" ")
        if tag in _BLOCKS and not self.unseen:
            self.parts.append("\n\n" if tag in _PARAGRAPHS else "\n")
