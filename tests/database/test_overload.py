"""What is refused when there is too much of it, and told when to come back."""

from contextlib import AsyncExitStack

import pytest
from fastapi import FastAPI
from sqlalchemy import text

from service import overload
from service.coalesce import QueueFull
from service.overload import Refusals
from tests.support.apps import client_of


async def test_many_are_told_to_come_back_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overload, "monotonic", lambda: 1000.0)
    refusals = Refusals()
    told = [refusals.hold_off({}) for _ in range(12 * overload.REFUSALS)]
    assert told[0] == 1
    assert told == sorted(told)
    assert told[overload.REFUSALS // 2] == 1
    assert told[overload.REFUSALS * 3 // 2] == 2
    assert told[-1] == overload.LONGEST


async def test_as_many_sessions_as_may_wait_and_no_more(app: FastAPI) -> None:
    sessions = app.state.sessions
    async with AsyncExitStack() as stack, client_of(app) as client:
        sessions._max_waiting = 0
        while not sessions._free.locked():
            session = await stack.enter_async_context(sessions.begin())
            await session.execute(text("SELECT 1"))
        with pytest.raises(QueueFull):
            await stack.enter_async_context(sessions.begin())
        bulk = {"items": [{"name": "Lamp"}]}
        keyed = {"Idempotency-Key": "lamp"}
        answers = [
            await client.delete("/items/1"),
            await client.post("/items/bulk", json=bulk),
            await client.post("/items", json={"name": "Lamp"}, headers=keyed),
        ]
        assert [answer.status_code for answer in answers] == [503] * 3
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
        # What is wrong is told all the same.
        assert (await client.post("/items/bulk", json={"items": [{}]})).status_code == 422
        # What takes no session goes on: a part of the pool is left for it.
        assert (await client.post("/items", json={"name": "Lamp"})).status_code == 201
        assert (await client.get("/items/1")).status_code == 200
        assert (await client.get("/health/ready")).status_code == 200
    async with client_of(app) as client:
        assert (await client.delete("/items/1")).status_code == 204
