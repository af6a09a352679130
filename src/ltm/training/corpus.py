"""Corpus: the documents of a training run, held compressed so that they can be drawn in any order."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ltm.data.documents import Document, iter_documents
from ltm.errors import LtmError


@dataclass(frozen=True)
class StoredDocument:
    """A document of a corpus: its name, kind (number of its path), length and compressed text."""

    name: str
    kind: int
    num_chars: int
    packed: bytes

    @property
    def text(self) -> str:
        return zlib.decompress(self.packed).decode("utf-8")


class Corpus:
    """Documents of one or more kinds, numbered from 0.

    kinds: for each kind its documents; kind_names: what to call them (default: their numbers).
    Reading goes once through all of them, so that broken data show at the start and not in the middle of a
    night. Texts are kept compressed in memory (about 0.4 of their bytes): a line of a gzip file cannot be
    reached without reading all before it.

    >>> corpus = Corpus([[Document("a", "some text", "here")]])
    >>> len(corpus), corpus[0].text
    (1, 'some text')
    """

    def __init__(self, kinds: Sequence[Iterable[Document]], kind_names: Sequence[str] | None = None):
        digest = hashlib.sha256()
        self.documents: list[StoredDocument] = []
        for kind, documents in enumerate(kinds):
            for document in documents:
                data = document.text.encode("utf-8")
                digest.update(f"{kind}:{len(data)}:".encode() + data)
                packed = zlib.compress(data, level=1)
                self.documents.append(StoredDocument(document.name, kind, len(document.text), packed))
        if not self.documents:
            raise LtmError("no documents to train on; give at least one with text")
        self.kind_names = list(kind_names) if kind_names is not None else [str(kind) for kind in range(len(kinds))]
        self.fingerprint = digest.hexdigest()[:16]

    @classmethod
    def from_paths(cls, paths: str | Path | Iterable[str | Path]) -> Corpus:
        """The documents of files and folders (see `iter_documents`); each path given is a kind."""
        given = [paths] if isinstance(paths, (str, Path)) else list(paths)
        if not given:
            raise LtmError("no data given; name at least one file or folder")
        sources = [iter_documents(path) for path in given]  # looks at every path before reading the first
        return cls(sources, _short_names([Path(path) for path in given]))

    def joined(self, kind_name: str, documents: Iterable[Document]) -> Corpus:
        """This corpus with one more kind."""
        kinds = [
            [Document(stored.name, stored.text, "") for stored in self if stored.kind == kind]
            for kind in range(len(self.kind_names))
        ]
        return Corpus([*kinds, documents], [*self.kind_names, kind_name])

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, number: int) -> StoredDocument:
        return self.documents[number]

    def __iter__(self) -> Iterator[StoredDocument]:
        return iter(self.documents)

    def of_kind(self, kind: int) -> list[int]:
        """The numbers of a kind's documents."""
        return [number for number, document in enumerate(self.documents) if document.kind == kind]


def _short_names(paths: list[Path]) -> list[str]:
    """Names that tell paths apart: the last part, or with its folder (books/train.jsonl) where needed."""
    last = [path.name for path in paths]
    if len(set(last)) == len(last):
        return last
    return ["/".join(path.parts[-2:]) for path in paths]
