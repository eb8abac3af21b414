"""Fixtures of the tests of coalesced calls."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI

from service.routers.item import ItemCalls
from service.state import state_of
from tests.support.processes import connection


@pytest.fixture
async def admin(database_url: str) -> AsyncIterator[Any]:
    """A connection of asyncpg to the shared database, separate from the service's."""
    async with connection(database_url) as conn:
        yield conn


@pytest.fixture
def calls(app: FastAPI) -> ItemCalls:
    calls: ItemCalls = state_of(app).items
    return calls
