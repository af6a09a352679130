"""The conversation of `ltm chat`: lines in, answers out, and commands that begin with a slash."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ltm.cli.chat_partner import ChatTurn, Message, Partner, PartnerError, tell_remembered
from ltm.console import json_text, notice, notices, write
from ltm.errors import LtmError
from ltm.outputs import write_output

COMMANDS = {
    "/memory": "what is remembered, newest first; /memory WORDS: what fits them",
    "/why": "what the last answer used",
    "/forget": "what was said so far is dropped, neither used any more nor kept; /forget ID: that memory is deleted",
    "/as-of": "/as-of 2026-11-27: only what was remembered before is used; without a time, everything again",
    "/save": "/save FILE: what was said so far is written to a file",
    "/help": 'these commands; a text of several lines begins and ends with """',
    "/quit": "end (Ctrl-D too)",
}
BLOCK = '"""'
"""What text of several lines stands between."""
_COMMAND = re.compile(r"(/[a-z-]+)(?:\s+(.*))?", re.DOTALL)


class Chat:
    """The turns so far and the last answer. trace: what an answer used is told after it; as_json: a line of JSON for
    each answer and command, and nothing else on stdout."""

    def __init__(self, partner: Partner, trace: bool, as_json: bool):
        self.partner, self.trace, self.as_json = partner, trace, as_json
        self.history: list[Message] = []
        self.last: ChatTurn | None = None

    def run(self) -> None:
        """Line by line, to the end of stdin, /quit or Ctrl-C at the prompt."""
        while (line := next_message()) is not None and line != "/quit":
            if not line:
                continue
            found = _COMMAND.fullmatch(line)
            try:
                if found is None:
                    self._answer(line)
                else:
                    self._obey(found[1], (found[2] or "").strip())
            except PartnerError as error:
                self._tell_error(error)

    def _answer(self, question: str) -> None:
        pieces: list[str] = []

        def hear(text: str) -> None:
            pieces.append(text)
            if not self.as_json:
                write(text)

        try:
            made = self.partner.ask(question, self.history, hear)
        except KeyboardInterrupt:
            self._stopped(question, "".join(pieces))
            return
        self.last = made
        self._said(question, made.text)
        if self.as_json:
            print(json_text({"question": question, **made.to_dict()}), flush=True)
            return
        print()
        if self.trace:
            made.why()
        notice(
            f"{made.num_tokens} tokens, {made.num_tokens / made.seconds if made.seconds else 0:.1f} tokens/s",
            style="dim",
        )

    def _stopped(self, question: str, text: str) -> None:
        """Ctrl-C ends the answer only: what came of it stands."""
        if not self.as_json:
            print()
        if text.strip():
            self._said(question, text)
        self.last = None
        what = "what came of it stands" if text.strip() else "this question is dropped"
        self._tell(
            {"question": question, "text": text, "stopped": True}, lambda: notice(f"stopped; {what}", style="dim")
        )

    def _said(self, question: str, text: str) -> None:
        self.history += [{"role": "user", "content": question}, {"role": "assistant", "content": text}]

    def _tell(self, plain: dict[str, Any], to_person: Callable[[], None]) -> None:
        if self.as_json:
            print(json_text(plain), flush=True)
        else:
            to_person()

    def _tell_error(self, error: LtmError) -> None:
        why = str(error)
        self._tell({"error": why}, lambda: notice(why, style="dim"))

    # commands

    def _obey(self, command: str, rest: str) -> None:
        does = {
            "/memory": self._memory,
            "/why": self._why,
            "/forget": self._forget,
            "/as-of": self._as_of,
            "/save": self._save,
            "/help": self._help,
        }.get(command)
        try:
            if does is None:
                raise LtmError(f"{command} is no command; there are: {', '.join(COMMANDS)}")
            does(rest)
        except LtmError as error:
            self._tell_error(error)

    def _memory(self, words: str) -> None:
        found = self.partner.memory(words)
        self._tell({"memory": [asdict(one) for one in found]}, lambda: tell_remembered(found, "nothing is remembered"))

    def _why(self, _: str) -> None:
        if self.last is None:
            raise LtmError("nothing was answered yet")
        self._tell({"used": self.last.to_dict()["used"]}, self.last.why)

    def _forget(self, name: str) -> None:
        if name:
            gone = self.partner.forget(name)
            self._tell({"forgotten": name}, lambda: notice(f"forgotten: {gone}", style="dim"))
            return
        self.partner.forget_said()
        self.history, self.last = [], None
        self._tell({"forgotten": None}, lambda: notice("forgotten: what was said so far", style="dim"))

    def _as_of(self, time: str) -> None:
        if time:
            self.partner.check_time()
        self.partner.as_of = checked_time(time) if time else None
        told = f"as of {self.partner.as_of}" if time else "with everything"
        self._tell({"as_of": self.partner.as_of}, lambda: notice(f"answers are {told} from now on", style="dim"))

    def _save(self, name: str) -> None:
        if not name or not self.history:
            raise LtmError("give a file: /save FILE" if self.history else "nothing was said yet")
        text = "".join(f"{turn['role'].capitalize()}: {turn['content'].strip()}\n\n" for turn in self.history)
        write_output(Path(name).expanduser(), text, lambda _: False, "a conversation")
        self._tell({"saved": name}, lambda: notice(f"wrote {name}", style="dim"))

    def _help(self, _: str) -> None:
        def tell() -> None:
            for name, meaning in COMMANDS.items():
                notice(f"{name:8} {meaning}")

        self._tell({"commands": COMMANDS}, tell)


def checked_time(given: str) -> str:
    """A date, or date and time, in ISO 8601 and UTC; LtmError for what is none."""
    try:
        time = datetime.fromisoformat(given.replace("Z", "+00:00"))
        time = time if time.tzinfo is not None else time.replace(tzinfo=timezone.utc)
        return time.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        raise LtmError(f"{given} is no time; give one such as 2026-11-27 or 2026-11-27T09:05") from None


def next_message() -> str | None:
    """What a person types, or a pipe gives: a line, or the lines of a block; None at the end."""
    line = _next_line("> ")
    if line is None or not line.startswith(BLOCK):
        return line
    lines, line = [], line[len(BLOCK) :]
    while not line.endswith(BLOCK):
        lines.append(line)
        following = _next_line("... ", strip=False)
        if following is None:
            return "\n".join(lines).strip()
        line = following.rstrip()
    return "\n".join([*lines, line[: -len(BLOCK)]]).strip()


def _next_line(prompt: str, *, strip: bool = True) -> str | None:
    try:
        if sys.stdin.isatty() and sys.stdout.isatty():
            with suppress(ImportError):
                import readline  # noqa: F401  (input() edits its line with it)
            line = input(prompt)
        else:
            if sys.stdin.isatty():
                notices.print(prompt, end="", style="bold")
            line = sys.stdin.readline()
            if not line:
                return None
    except (EOFError, KeyboardInterrupt):
        print()
        return None
    return line.strip() if strip else line.rstrip("\n")
