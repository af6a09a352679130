"""A long document that every Python carries: the language reference in `pydoc_data.topics`, in a reader's order."""

from __future__ import annotations

import re

ORDER = re.findall(
    r"[\w-]+",
    """
    objects types specialnames specialattrs dynamic-features execmodel compound import
    atom-identifiers atom-literals lists dict yield attribute-references subscriptions slicings calls await power unary
    binary shifting bitwise comparisons booleans conditional lambda exprlists operator-summary
    assignment augassign annassign assert pass del return raise break continue global nonlocal
    strings identifiers integers floating imaginary numbers truth typesseq string-methods formatstrings typesmapping
    """,
)
"""Topics in the order of the reference: data model, execution, statements, expressions, lexical matters, types."""

REPEATED_CHARS = 60
"""A paragraph this long that was there already is left out: topics overlap, and a text that is scored must be new."""


def language_reference() -> str:
    """The topics of ORDER that this Python has, as one text without repeated paragraphs."""
    from pydoc_data.topics import topics

    return join_topics([topics[name] for name in ORDER if name in topics])


def join_topics(topics: list[str]) -> str:
    """Topics one after another; a long paragraph that occurred before is dropped wherever it stands.

    >>> join_topics(["one", "two"])
    'one\\n\\ntwo\\n'
    """
    seen: set[str] = set()
    kept = []
    for paragraph in re.split(r"\n\s*\n", "\n\n".join(topics)):
        plain = " ".join(paragraph.split())
        if not plain or (len(plain) >= REPEATED_CHARS and plain in seen):
            continue
        seen.add(plain)
        kept.append(paragraph.strip("\n"))
    return "\n\n".join(kept) + "\n"
