"""The one deadline of a request, whatever it waits for: its body, the database, or its client."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.types import Scope

from service.metrics import DEADLINE_EXCEEDED


class Deadline:
    """Gives up the request of the current task when its time is over.

    Its client is answered first: what the request waits for may take its time to be cancelled.

    Args:
        seconds: the request's time.
        give_up: what then answers the client; None if it is too late for an answer.
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
        """Let the request take the time that it takes from here on."""
        self._timer.cancel()

    def _pass(self) -> None:
        self.passed = True
        DEADLINE_EXCEEDED.inc()
        if answer := self._give_up():
            self.answered = asyncio.create_task(answer)
        assert self._task is not None
        self._task.cancel()


def break_off(scope: Scope) -> bool:
    """End the connection at once; closing it would wait until its client has read what it was sent.

    Answers with whether there is one: tests call the application without.
    """
    transport = scope.get("state", {}).get("transport")  # of service/transport.py
    if transport is None:
        return False
    transport.abort()
    return True
