"""How long one waits for another process, on an event loop that may itself stand still."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

Answer = TypeVar("Answer")

LOOK = 0.005  # seconds


async def in_time(asking: Awaitable[Answer], looks: int) -> Answer:
    """What is answered.

    It is waited for so many times `LOOK`, and not all of it at once: an event loop that stood still
    meanwhile would take the other for slow, before it has read the answer.

    Raises:
        TimeoutError: there is no answer; it is not waited for any more.
    """
    answering = asyncio.ensure_future(asking)
    try:
        for _ in range(looks):
            if (await asyncio.wait([answering], timeout=LOOK))[0]:
                return answering.result()
    finally:
        answering.cancel()
    raise TimeoutError
