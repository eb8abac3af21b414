"""Fixtures of the tests of coalesced calls."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI

from service.domain.item import Item
from service.routers.calls import Calls
from service.state import state_of
from tests.support.processes import connection


@pytest.fixture
async def admin(database_url: str) -> AsyncIterator[Any]:
    """A connection of asyncpg to the shared database, separate from the service's."""
    async with connection(database_url) as conn:
        yield conn


@pytest.fixture
def calls(app: FastAPI) -> Calls[Item]:
    calls: Calls[Item] = state_of(app).items
    return calls
