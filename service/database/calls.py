"""Crud functions as coalesced calls."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.database.coalescer import Coalescer
from service.database.faults import Unreachable, is_data_fault, is_lost, is_undone
from service.observability.metrics import SET_SIZE, watch_queue
from service.settings import Settings

Call = TypeVar("Call")
Answer = TypeVar("Answer")


def coalesce(
    engine: AsyncEngine,
    settings: Settings,
    function: Callable[[AsyncConnection, Sequence[Call]], Awaitable[Sequence[Answer]]],
    *,
    repeatable: bool = False,
    max_waiting: int | None = None,
    **options: Any,
) -> Coalescer[Call, Answer]:
    """Return a function that takes a single call and joins concurrent ones into sets.

    A set may take as long as a request may.

    Args:
        function: takes a connection and a set of calls; returns their answers in order.
        repeatable: whether a set may run again after a lost connection, as reads may.
        max_waiting: maximum number of waiting calls; by default the setting `queue_limit`.
        options: further options of `Coalescer`.
    """
    name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
    observe_size = SET_SIZE.labels(name).observe

    async def run(calls: Sequence[Call]) -> Sequence[Answer]:
        observe_size(len(calls))
        try:
            async with asyncio.timeout(settings.request_timeout), engine.connect() as conn:
                return await function(conn, calls)
        except TimeoutError as exc:
            raise Unreachable from exc

    def may_repeat(fault: Exception) -> bool:
        return is_undone(fault) or (repeatable and is_lost(fault))

    coalescer = Coalescer(
        run,
        is_data_fault=is_data_fault,
        may_repeat=may_repeat,
        max_waiting=settings.queue_limit if max_waiting is None else max_waiting,
        **options,
    )
    watch_queue(name, coalescer)
    return coalescer
