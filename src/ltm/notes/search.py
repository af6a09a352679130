"""Search in one row of a store of notes: by words, by meaning, and by both."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from ltm.errors import LtmError
from ltm.notes.records import Found
from ltm.notes.row_tables import RowTables

if TYPE_CHECKING:
    from ltm.notes.encoder import Encoder
    from ltm.notes.vectors import VectorCache

By = Literal["hybrid", "words", "meaning"]
SEARCHES: tuple[By, ...] = ("hybrid", "words", "meaning")
CANDIDATES = 50
"""Notes that each of the two searches gives to the hybrid one, at least."""
DAMPING = 60
"""Added to each rank before it is inverted (Cormack et al., 2009): how little the first places differ."""
EMBEDDED_AT_ONCE = 64
"""Notes whose vectors are made and written together."""
_WORD = re.compile(r"\w+")
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        a about an and are as at be by can did do does for from had has have he her him his how i in is it its me my of
        on or she that the their them then there they this to was we were what when where which who whom whose why will
        with would you your
        """,
    )
)
"""Say nothing of what a text is about; a short text may lack them all the same, and then they would look rare."""


class WeighedWords(NamedTuple):
    """The words of a query but function words: the ids of the notes that hold each, stemmed, and how rare it is among
    all notes, log of (notes + 1) / (notes with it + 1/2)."""

    holding: Mapping[str, Set[int]]
    rarities: Mapping[str, float]

    def in_notes(self, notes: Iterable[int]) -> float:
        """How much of the query these notes hold together, 0 to 1, by rarity; 0 where no word says anything."""
        wanted = set(notes)
        return self._share(word for word, holding in self.holding.items() if holding & wanted)

    def in_text(self, text: str) -> float:
        """How much of the query a text holds as it is spelled."""
        said = set(_words(text))
        return self._share(word for word in self.rarities if word in said)

    def _share(self, words: Iterable[str]) -> float:
        whole = sum(self.rarities.values())
        return sum(self.rarities[word] for word in words) / whole if whole else 0.0


class RowSearch:
    """encoder: called when vectors are first needed; None: there are none. vectors: the store's matrices."""

    def __init__(self, tables: RowTables, vectors: VectorCache, encoder: Callable[[], Encoder] | None):
        self.tables, self.database, self.vectors, self._encoder = tables, tables.database, vectors, encoder

    @property
    def encoder(self) -> Encoder:
        if self._encoder is None:
            raise LtmError("searching by meaning needs an encoder; give one: store.row(0, encoder), or search by words")
        return self._encoder()

    def search(self, query: str, count: int, by: By, kind: str | None) -> list[Found]:
        """See `NoteRow.search`."""
        if by not in SEARCHES or count < 1:
            raise LtmError(f"by={by!r}, count={count}; use one of {', '.join(SEARCHES)}, and 1 or more")
        asked = None if by == "words" else vectors_of(self.encoder, [query])[0]
        with self.database.transaction():  # all of one state, whatever another process writes
            most = max(count, CANDIDATES) if by == "hybrid" else count
            lists: dict[str, list[tuple[int, float]]] = {}
            if by != "meaning":
                lists["words"] = self._by_words(query, most, kind)
            if asked is not None:
                lists["meaning"] = self._by_meaning(asked, most, kind)
            fused = fuse({name: [note for note, _ in own] for name, own in lists.items()}, count)
            scores = dict(lists[by]) if by != "hybrid" else {note: score for note, score, _ in fused}
            notes = self.tables.notes_of_ids([note for note, _, _ in fused])
        return [Found(note, scores[note.id], ranks) for note, (_, _, ranks) in zip(notes, fused, strict=True)]

    def ranked(self, query: str, count: int, by: By, kind: str | None) -> list[tuple[int, float]]:
        """See `NoteRow.ranked`."""
        if by == "words":
            return self._by_words(query, count, kind)
        return self._by_meaning(vectors_of(self.encoder, [query])[0], count, kind)

    def weighed_words(self, query: str) -> WeighedWords:
        """See `NoteRow.weighed_words`."""
        index, holding, rarities = self.tables.words, dict[str, set[int]](), dict[str, float]()
        with self.database.transaction():
            total = self._num_notes()
            for word in content_words(query):
                rows = self.database.run(
                    f"SELECT notes.id FROM {index} JOIN notes ON notes.number = {index}.rowid WHERE {index} MATCH ?",
                    (f'"{word}"',),
                )
                holding[word] = {note for (note,) in rows}
                rarities[word] = max(math.log((total + 1) / (len(rows) + 0.5)), 0.0)
        return WeighedWords(holding, rarities)

    def embed(self, progress: Callable[[int, int], None] | None = None) -> None:
        """See `NoteRow.embed`."""
        encoder, made = self.encoder, 0
        while (missing := self._num_notes() - self.vectors.of(self.tables.row, encoder.identity).size) > 0:
            notes = self.database.run(
                "SELECT notes.id, kind, searched FROM notes LEFT JOIN vectors USING (number) "
                "WHERE row = ? AND encoder IS NOT ? ORDER BY number LIMIT ?",
                (self.tables.row, encoder.identity, EMBEDDED_AT_ONCE),
            )
            if not notes:
                return
            self._write(encoder.identity, notes, vectors_of(encoder, [searched for *_, searched in notes]))
            made += len(notes)
            if progress is not None:
                progress(made, made + max(missing - len(notes), 0))

    def _write(self, encoder: str, notes: Sequence[tuple[int, str, str]], vectors: np.ndarray) -> None:
        """Vectors of notes (id, kind, what is searched), but for those that changed in the meantime."""
        row = self.tables.row
        with self.database.transaction():
            known = self.vectors.of(row, encoder)
            for (note, kind, searched), vector in zip(notes, vectors, strict=True):
                self.database.run(
                    "INSERT OR REPLACE INTO vectors SELECT number, ?, ? FROM notes "
                    "WHERE row = ? AND id = ? AND searched = ?",
                    (encoder, vector.tobytes(), row, note, searched),
                )
                if self.database.value("SELECT changes()"):
                    known.append(note, kind, vector)

    def _num_notes(self) -> int:
        return self.database.value("SELECT count(*) FROM notes WHERE row = ?", (self.tables.row,))

    def _by_words(self, query: str, count: int, kind: str | None) -> list[tuple[int, float]]:
        """Ids and BM25 sums of the notes that have any word of the query, best first; of equals the older one."""
        words = _words(query)
        if not words:
            return []
        which, values = ("", ()) if kind is None else ("AND kind = ? ", (kind,))
        index = self.tables.words
        rows = self.database.run(
            f"SELECT notes.id, -bm25({index}) AS score FROM {index} JOIN notes ON notes.number = {index}.rowid "
            f"WHERE {index} MATCH ? {which}ORDER BY score DESC, notes.id LIMIT ?",
            (" OR ".join(f'"{word}"' for word in words), *values, count),
        )
        return [(note, score) for note, score in rows]

    def _by_meaning(self, asked: np.ndarray, count: int, kind: str | None) -> list[tuple[int, float]]:
        self.embed()
        return self.vectors.of(self.tables.row, self.encoder.identity).nearest(asked, count, kind)


def content_words(text: str) -> list[str]:
    """The different words of a text but function words, in order.

    >>> content_words("What did Boris keep? Boris kept bees.")
    ['boris', 'keep', 'kept', 'bees']
    """
    return [word for word in _words(text) if word not in _FUNCTION_WORDS]


def _words(query: str) -> list[str]:
    """The different words of a query, in order."""
    return list(dict.fromkeys(_WORD.findall(query.lower())))


def fuse(lists: Mapping[str, Sequence[int]], count: int) -> list[tuple[int, float, dict[str, int]]]:
    """Lists of ids, best first, as one: each id gets the sum of 1 / (DAMPING + rank) over the lists it is in.

    Reciprocal rank fusion (Cormack et al., 2009). Returns (id, score, ranks), best first; of equals the one that the
    first list has first, then the lower id.

    >>> fuse({"words": [7, 8], "meaning": [8, 9]}, count=2)[0][0]
    8
    """
    ranks: dict[int, dict[str, int]] = {}
    for name, ids in lists.items():
        for rank, note in enumerate(ids, start=1):
            ranks.setdefault(note, {})[name] = rank
    scored = [(note, sum(1 / (DAMPING + rank) for rank in own.values()), own) for note, own in ranks.items()]
    first, last = next(iter(lists), ""), len(ranks) + 1
    return sorted(scored, key=lambda item: (-item[1], item[2].get(first, last), item[0]))[:count]


def vectors_of(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    """Unit vectors float32 [texts, width], little-endian as on the disk."""
    return np.ascontiguousarray(encoder.embed(texts).numpy(), dtype="<f4")
