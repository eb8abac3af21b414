"""The deadline of a request, for its body, the database and its client together."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.types import Scope

from service.observability.metrics import DEADLINE_EXCEEDED


class Deadline:
    """Cancels the current task, which serves a request, when its time is over.

    The response is sent first, as cancelling what the request waits for may take time.

    Args:
        seconds: until the deadline.
        give_up: returns the coroutine that sends the response; None if one has been started.
    """

    __slots__ = ("_give_up", "_task", "_timer", "answered", "passed")

    def __init__(
        self, seconds: float, give_up: Callable[[], Coroutine[Any, Any, None] | None]
    ) -> None:
        self.passed = False
        self.answered: asyncio.Task[None] | None = None
        self._give_up = give_up
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._pass)

    def lift(self) -> None:
        """Remove the deadline."""
        self._timer.cancel()

    def _pass(self) -> None:
        self.passed = True
        DEADLINE_EXCEEDED.inc()
        if answer := self._give_up():
            self.answered = asyncio.create_task(answer)
        assert self._task is not None
        self._task.cancel()


async def until_read(scope: Scope) -> None:
    """Wait until the client has read all but the last 16 KiB, or is disconnected."""
    if flow := scope.get("state", {}).get("flow"):  # set by server/protocol.py
        await flow.drain()


def break_off(scope: Scope) -> bool:
    """Abort the request's connection; closing it would wait until its client has read everything.

    Returns whether there is a connection: tests call the application without a server.
    """
    transport = scope.get("state", {}).get("transport")  # set by server/protocol.py
    if transport is None:
        return False
    transport.abort()
    return True
