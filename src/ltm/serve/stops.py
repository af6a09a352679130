"""Stop strings in a text that comes piece by piece."""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Lets a text through up to the first stop string, holding back what may yet become one.

    >>> stops = StopFilter(["END"])
    >>> [stops.push(piece) for piece in ("one E", "N two", " EN", "D three")], stops.found
    (['one ', 'EN two', ' ', ''], 'END')
    """

    def __init__(self, stops: Sequence[str] = ()):
        self.stops = [stop for stop in stops if stop]
        self._held = ""
        self.found: str | None = None

    def push(self, piece: str) -> str:
        """What of the text may be shown now; after a stop string was found, nothing any more."""
        if self.found is not None:
            return ""
        text = self._held + piece
        places = [(place, stop) for stop in self.stops if (place := text.find(stop)) >= 0]
        if places:
            place, self.found = min(places)
            self._held = ""
            return text[:place]
        kept = max((held_back(text, stop) for stop in self.stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def finish(self) -> str:
        """What was held back, once the text has ended."""
        held, self._held = self._held, ""
        return held


def held_back(text: str, stop: str) -> int:
    """How many characters at the end of a text a stop string begins with, and may yet become it."""
    most = min(len(text), len(stop) - 1)
    return next((length for length in range(most, 0, -1) if text.endswith(stop[:length])), 0)
