"""The coalesced calls of a resource: those that are frequent and inexpensive."""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.crud.listing import shape
from service.database.calls import coalesce
from service.database.engine import transactional
from service.domain.listing import Page, Query, Stored
from service.settings import Settings

Row = TypeVar("Row", bound=Stored)


class Calls(Generic[Row]):
    """Joins concurrent calls of a resource into sets.

    Together they hold at most 6 connections of a worker's pool. One set in flight of a kind is
    fastest, as sets grow larger; lists differ in cost, so they have two.

    Args:
        get_many, create_many, list_pages, search_pages, is_expensive: the resource's, from `crud`.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        settings: Settings,
        *,
        get_many: Callable[[AsyncConnection, Sequence[int]], Awaitable[list[Row | None]]],
        create_many: Callable[[AsyncConnection, Sequence[Mapping[str, Any]]], Awaitable[list[Row]]],
        list_pages: Callable[[AsyncConnection, Sequence[Any]], Awaitable[list[Page[Row]]]],
        search_pages: Callable[[AsyncConnection, Sequence[Any]], Awaitable[list[Page[Row]]]],
        is_expensive: Callable[[Any], bool],
    ) -> None:
        self.get = coalesce(engine, settings, get_many, max_sets=1, repeatable=True)
        self.create = coalesce(engine, settings, create_many, max_sets=1)
        self._is_expensive = is_expensive
        self.list_inexpensive = coalesce(
            engine, settings, list_pages, shape=shape, max_sets=2, repeatable=True
        )
        # In a lane of their own, one by one, so that no read by id waits for a search. Fewer may
        # wait, as each takes longer.
        self.list_expensive = coalesce(
            transactional(engine),
            settings,
            search_pages,
            max_set=1,
            max_sets=2,
            max_waiting=math.ceil(settings.queue_limit / 5),
            max_wait=settings.pool_timeout,
            repeatable=True,
        )

    async def list(self, query: Query[Any]) -> Page[Row]:
        """Return one page."""
        lane = self.list_expensive if self._is_expensive(query) else self.list_inexpensive
        return await lane(query)
