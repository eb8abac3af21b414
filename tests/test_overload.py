"""What is refused when there is too much of it: told when to come back, and not read before."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from fastapi import FastAPI

from service import overload
from service.coalesce import QueueFull
from service.overload import Refusals
from tests.conftest import client_of


class Transport:
    """Stands for a connection, and notes whether it is read from."""

    def __init__(self) -> None:
        self.is_read = True
        self.is_closed = False

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        assert not self.is_closed
        self.is_read = True

    def is_closing(self) -> bool:
        return self.is_closed


async def test_nothing_is_read_from_the_refused_until_their_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    refusals, transport, gone = Refusals(), Transport(), Transport()
    assert refusals.hold_off({"state": {"transport": transport}}) == 1
    refusals.hold_off({"state": {"transport": gone}})
    gone.is_closed = True
    assert not transport.is_read
    begun = loop.time()
    while not transport.is_read:  # noqa: ASYNC110 (a transport tells nobody)
        await asyncio.sleep(0.01)
    assert loop.time() - begun > 0.9
    await asyncio.sleep(0.1)
    assert not gone.is_read


async def test_many_are_told_to_come_back_one_after_the_other() -> None:
    refusals = Refusals()
    told = [refusals.hold_off({}) for _ in range(10 * overload.REFUSALS)]
    assert told[0] == 1
    assert told == sorted(told)
    assert told[2 * overload.REFUSALS] == pytest.approx(3, abs=1)
    assert told[-1] == overload.LONGEST


async def test_as_many_sessions_as_may_wait_and_no_more(app: FastAPI) -> None:
    sessions = app.state.sessions
    async with AsyncExitStack() as stack, client_of(app) as client:
        sessions._most = 2
        for _ in range(2):
            await stack.enter_async_context(sessions.begin())
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
        # What takes no session goes on.
        assert (await client.post("/items", json={"name": "Lamp"})).status_code == 201
    async with client_of(app) as client:
        assert (await client.delete("/items/1")).status_code == 204
