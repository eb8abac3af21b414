"""What the application holds while it serves: one typed object at `app.state.service`.

It imports types only, so that every room can use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from fastapi import FastAPI
    from sqlalchemy.ext.asyncio import AsyncEngine
    from starlette.requests import HTTPConnection

    from service.access.counters import Counters
    from service.access.scopes import Identify
    from service.database.coalescer import Coalescer
    from service.database.revision import Found, Revisions
    from service.database.sessions import Sessions
    from service.domain.item import Item
    from service.http.body import MemoryBudget
    from service.http.export import Exports
    from service.observability.metrics import RequestStatistics
    from service.routers.calls import Calls
    from service.settings import Settings


@dataclass(slots=True)
class State:
    """The parts of the application; `main.create_app` makes them."""

    settings: Settings
    engine: AsyncEngine
    sessions: Sessions
    identify: Identify | None  # None: everybody may call
    counters: Counters  # of rate limits
    body_budget: MemoryBudget  # of large bodies
    large_bodies: asyncio.Semaphore  # that are parsed and handled at once
    response_budget: MemoryBudget  # of large responses that clients have not read
    statistics: RequestStatistics | None  # None: metrics are off
    revisions: Revisions
    find_revision: Coalescer[None, Found]
    exports: Exports
    items: Calls[Item]


def state_of(source: FastAPI | HTTPConnection) -> State:
    """Return the state of an application, or of the application that serves a request."""
    app = getattr(source, "app", source)
    state: State = app.state["service"]  # much faster than the attribute
    return state
