"""What is refused when there is too much of it: told when to come back, and not read before."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from fastapi import FastAPI

from service import overload
from service.coalesce import QueueFull
from service.overload import Refusals
from service.transport import JoiningTransport
from tests.conftest import client_of


class Transport(asyncio.Transport):
    """Stands for a connection of 10.0.0.1, and notes whether it is read from."""

    def __init__(self) -> None:
        super().__init__({"peername": ("10.0.0.1", 50_000)})
        self.is_read = True

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True

    def is_closing(self) -> bool:
        return False


def connection() -> tuple[Transport, JoiningTransport]:
    inner = Transport()
    return inner, JoiningTransport(inner, asyncio.get_running_loop())


async def test_nothing_is_read_from_the_refused_until_their_time_is_over() -> None:
    loop = asyncio.get_running_loop()
    inner, joining = connection()
    scope = {"state": {"transport": joining}, "client": ("10.0.0.1", 50_000)}
    refusals = Refusals()
    for _ in range(overload.REFUSALS // 2):
        refusals.hold_off({})
    begun = loop.time()
    assert refusals.hold_off(scope) == 1
    joining.resume_reading()  # uvicorn's flow control knows nothing of it
    assert not inner.is_read
    while not inner.is_read:  # noqa: ASYNC110 (a transport tells nobody)
        await asyncio.sleep(0.01)
    assert loop.time() - begun > 0.4


async def test_what_uvicorn_has_paused_stays_so_when_the_time_is_over() -> None:
    inner, joining = connection()
    joining.hold(0.01)
    joining.pause_reading()
    await asyncio.sleep(0.1)
    assert not inner.is_read
    joining.resume_reading()
    assert inner.is_read


async def test_a_proxys_connection_is_not_held() -> None:
    inner, joining = connection()
    refusals = Refusals()
    for _ in range(2):
        refusals.hold_off({"state": {"transport": joining}, "client": ("203.0.113.1", 0)})
    assert inner.is_read


async def test_many_are_told_to_come_back_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overload, "monotonic", lambda: 1000.0)
    refusals = Refusals()
    told = [refusals.hold_off({}) for _ in range(10 * overload.REFUSALS)]
    assert told[0] == 1
    assert told == sorted(told)
    assert told[overload.REFUSALS // 2] == 1
    assert told[overload.REFUSALS * 3 // 2] == 2
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
