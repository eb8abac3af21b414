"""What operations take from the application and from headers, as FastAPI's dependencies.

Those that are `async def` functions of the request cost little: `http/direct.py` calls them.
"""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.sessions import Sessions
from service.http.conditional import expected_versions
from service.http.idempotency import idempotency_key
from service.state import state_of


async def get_sessions(request: Request) -> Sessions:
    """Return the sessions of operations that are not coalesced."""
    return state_of(request).sessions


async def get_db(request: Request) -> AsyncIterator[AsyncSession]:
    """Yield a session in a transaction, for an operation of several statements.

    Use `Depends(get_db, scope="function")`: the commit then comes before the response, so that a
    failed commit is an error. Where bodies are large, call `sessions.transaction` in the operation
    instead, as a dependency holds its connection while the body is validated.
    """
    async with state_of(request).sessions.begin() as session:
        yield session


SessionsOf = Annotated[Sessions, Depends(get_sessions)]
# The versions in If-Match; None accepts any.
ExpectedVersions = Annotated[list[int] | None, Depends(expected_versions)]
# The client's Idempotency-Key, if it sent one.
IdempotencyKey = Annotated[str | None, Depends(idempotency_key)]
