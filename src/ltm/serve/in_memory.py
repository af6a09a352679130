"""A call in a user's memory: one at a time, in that user's turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ltm.serve.errors import ApiError
from ltm.serve.identity import Caller
from ltm.serve.user_memory import UserMemory

if TYPE_CHECKING:
    from ltm.serve.app import Server

Result = TypeVar("Result")


async def in_memory(server: Server, caller: Caller, call: Callable[[UserMemory], Result]) -> Result:
    """What a call gives in the engine's thread. Raises ApiError 503 where too many wait, or the server stops."""

    def run() -> Result:
        with server.users.using(caller) as memory:
            return call(memory)

    done = asyncio.wrap_future(server.engine.run(caller.turn, run))
    await asyncio.wait([done])
    if done.cancelled():
        raise ApiError(503, "the server is stopping; come again", "overloaded")
    return done.result()
