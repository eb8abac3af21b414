"""Dependencies for operations that take FastAPI's own path."""

from collections.abc import AsyncIterator

from fastapi import Request
from sqlalchemy.ext.asyncio import AsyncSession

from service.state import state_of


async def get_db(request: Request) -> AsyncIterator[AsyncSession]:
    """Yield a session in a transaction, for an operation of several statements.

    Use `Depends(get_db, scope="function")`: the commit then comes before the response, so that a
    failed commit is an error. Where bodies are large, call `state_of(request).sessions.begin()` in
    the operation instead, as a dependency holds its connection while the body is validated.
    """
    async with state_of(request).sessions.begin() as session:
        yield session
