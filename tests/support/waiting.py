"""Waiting for events. No test asserts how long they take."""

import asyncio
import time
from collections.abc import Callable

TIMEOUT = 60.0  # seconds after which an expected event counts as missing


def wait_until(condition: Callable[[], object]) -> None:
    """Poll `condition` until it holds.

    Raises:
        AssertionError: it does not hold within `TIMEOUT` seconds.
    """
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {TIMEOUT} s")
        time.sleep(0.02)


async def until(condition: Callable[[], object]) -> None:
    """Poll `condition` until it holds, while the event loop runs.

    Raises:
        TimeoutError: it does not hold within `TIMEOUT` seconds.
    """
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 (most conditions here have no event)
            await asyncio.sleep(0.005)
