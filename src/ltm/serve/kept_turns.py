"""Between what is kept of a conversation and what its user's memory learnt from it: each item knows its turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ltm.serve.errors import ApiError
from ltm.serve.identity import Caller
from ltm.serve.in_memory import in_memory
from ltm.serve.kept_copies import own_hash
from ltm.serve.response_request import Json, messages_of
from ltm.serve.response_store import Kept
from ltm.serve.turn_log import LoggedTurn, TurnLog, places

if TYPE_CHECKING:
    from ltm.serve.app import Server


def kept_items(
    old: Sequence[dict[str, Any]], items: Sequence[Json], session: str | None, after: str | None
) -> list[Kept]:
    """Items with what was said before them. old: messages before; session, after: as `turn_log.chain` for these."""
    found = places([*old, *messages_of(items)], session, after)[len(old) :]
    return [Kept(item, place) for item, place in zip(items, found, strict=True)]


async def note(server: Server, caller: Caller, session: str, turns: list[tuple[str, str]], after: str | None) -> None:
    """Log what was said in a conversation without a question; it is taken in before the next one."""
    if server.model.has_memory:
        await in_memory(server, caller, lambda memory: memory.note(turns, session, after=after))


async def forget_session(server: Server, caller: Caller, session: str) -> None:
    """Delete whatever was learnt from a conversation, from memory and disk."""
    await _forget(server, caller, lambda log: log.of_session(session))


async def forget_item(server: Server, caller: Caller, kept: Kept) -> None:
    """Delete the turn that an item is."""
    own = own_hash(kept)
    if own is not None:
        await _forget(server, caller, lambda log: [turn for turn in [log.by_hash(own)] if turn is not None])


async def _forget(server: Server, caller: Caller, find: Callable[[TurnLog], list[LoggedTurn]]) -> None:
    if server.model.has_memory:
        await in_memory(server, caller, lambda memory: memory.forget(find(memory.log)))
        return
    with server.users.turn_log(caller) as log:
        if log is not None and find(log):
            why = "what was learnt from it lies in a memory, and this server runs without; start it with --memory"
            raise ApiError(409, why, "memory_off")
