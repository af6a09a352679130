"""The embedding vectors of a row's notes as one matrix, kept beside the database and filled from it."""

from __future__ import annotations

import numpy as np

from ltm.notes.database import Database

_GROWTH = 1.5


class RowVectors:
    """Unit vectors of one row's notes by one encoder, float32 [notes, width], in the order they came.

    The database is the truth: what is here is read from it at first use, added to with it, and dropped whenever
    something was deleted, undone, or written by another process.
    """

    def __init__(self, database: Database, row: int, encoder: str):
        self.database, self.row, self.encoder = database, row, encoder
        self.version = database.version
        rows = database.run(
            "SELECT notes.id, notes.kind, vector FROM vectors JOIN notes USING (number) "
            "WHERE row = ? AND encoder = ? ORDER BY number",
            (row, encoder),
        )
        width = len(rows[0][2]) // 4 if rows else 0
        self.size = len(rows)
        self.ids = np.array([note for note, _, _ in rows], dtype=np.int64)  # [notes or more]
        self.kinds = np.array([kind for _, kind, _ in rows], dtype=object)
        self.matrix = np.frombuffer(b"".join(blob for _, _, blob in rows), dtype="<f4").reshape(len(rows), width)

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes + self.ids.nbytes

    def append(self, note: int, kind: str, vector: np.ndarray) -> None:
        """A note whose vector [width] has just been written to the database."""
        if self.size == len(self.ids):
            room = int(self.size * _GROWTH) + 64
            self.ids = _grown(self.ids, (room,))
            self.kinds = _grown(self.kinds, (room,))
            self.matrix = _grown(self.matrix, (room, len(vector)))
        self.ids[self.size], self.kinds[self.size], self.matrix[self.size] = note, kind, vector
        self.size += 1

    def nearest(self, query: np.ndarray, count: int, kind: str | None = None) -> list[tuple[int, float]]:
        """Ids and cosines of the notes most like a unit vector [width], best first; of equals the older one."""
        scores = self.matrix[: self.size] @ query if self.size else np.empty(0, dtype=np.float32)
        places = np.arange(self.size) if kind is None else np.flatnonzero(self.kinds[: self.size] == kind)
        if len(places) > count:
            places = places[np.argpartition(-scores[places], count - 1)[:count]]
        ordered = places[np.lexsort((self.ids[places], -scores[places]))]
        return [(int(self.ids[place]), float(scores[place])) for place in ordered]


def _grown(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    made = np.empty(shape, dtype=array.dtype)
    if len(array):
        made[: len(array)] = array
    return made


class VectorCache:
    """The matrices of a store, by row and encoder."""

    def __init__(self, database: Database):
        self.database = database
        self._held: dict[tuple[int, str], RowVectors] = {}
        database.undone.append(self._held.clear)

    @property
    def nbytes(self) -> int:
        return sum(vectors.nbytes for vectors in list(self._held.values()))

    def of(self, row: int, encoder: str) -> RowVectors:
        """A row's matrix, read anew where it is not what the database holds."""
        with self.database.lock:
            known = self._held.get((row, encoder))
            if known is None or known.version != self.database.version:
                self.drop(row)  # a row has vectors of one encoder; those of another are replaced
                known = self._held[row, encoder] = RowVectors(self.database, row, encoder)
            return known

    def drop(self, row: int) -> None:
        """Something of a row's vectors was deleted."""
        for key in [key for key in self._held if key[0] == row]:
            del self._held[key]
