"""One choice of an answer as an engine makes it: cut at stop strings, told as it comes, and put together at its end."""

from __future__ import annotations

from ltm.serve.engine import ChatWork, Choice, Listener
from ltm.serve.stops import StopFilter
from ltm.serve.tools import read_calls
from ltm.text.generation import EndOfAnswer
from ltm.text.token_rules import TokenScore, TokenScores


class Hearing:
    """Hears the text of a choice, by its number, token by token; scores: what notes how likely these were.

    >>> hearing = Hearing(work, listener, 0, scores)  # doctest: +SKIP
    >>> hearing.hear("My cat"); hearing.choice(ended=True, num_tokens=3)  # doctest: +SKIP
    """

    def __init__(self, work: ChatWork, listener: Listener, number: int, scores: TokenScores):
        self.work, self.listener, self.number, self.noted = work, listener, number, scores.scores
        self.stops, self.text = StopFilter(work.stops), ""
        self.shown = list[TokenScore]()

    def hear(self, text: str) -> None:
        """A piece of text. Raises EndOfAnswer where it is enough."""
        self._tell(self.stops.push(text))
        if self.stops.found is not None:
            raise EndOfAnswer

    def _tell(self, text: str, *, all_scores: bool = False) -> None:
        """Tell text that may be shown, with the scores of its tokens: what is held back holds back theirs."""
        self.text += text
        new = self.noted[len(self.shown) :] if text or all_scores else []
        self.shown += new
        self.listener.hear(self.number, text, new)

    def choice(self, *, ended: bool, num_tokens: int) -> Choice:
        """The whole choice; ended: the model ended it."""
        self._tell(self.stops.finish(), all_scores=self.stops.found is None)
        text, calls = (self.text, ()) if self.work.format.tools is None else read_calls(self.text)
        reason = "length" if not ended and self.stops.found is None else "tool_calls" if calls else "stop"
        return Choice(text, reason, num_tokens, calls, tuple(self.shown))
