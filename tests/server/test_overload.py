"""Overload: when refused clients may come back, and the memory for request bodies."""

from typing import Annotated

import httpx2 as httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI
from service.http.overload import LONGEST, REFUSALS, Refusals

from service import overload
from service.http.routing import StrictRoute
from service.schemas.item import ItemCreate
from tests.support.problems import check_problem

BODY = b'{"name": "Lamp"}'


def test_refused_clients_are_told_to_come_back_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overload, "monotonic", lambda: 1000.0)
    refusals = Refusals()
    seconds = [refusals.hold_off({}) for _ in range(12 * REFUSALS)]

    assert seconds == sorted(seconds)
    assert (seconds[0], seconds[REFUSALS // 2], seconds[REFUSALS * 3 // 2]) == (1, 1, 2)
    assert seconds[-1] == LONGEST


async def test_a_body_that_exceeds_the_memory_left_for_bodies_is_a_503(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    async def store(
        body: ItemCreate, needs_fastapi: Annotated[None, Depends(lambda: None)]
    ) -> None:
        """FastAPI itself reads the body here, and turns other errors of that into a 400."""

    router = APIRouter(route_class=StrictRoute)
    router.add_api_route("/store", store, methods=["POST"])
    app.include_router(router)

    async def post(path: str) -> httpx.Response:
        return await client.post(path, content=BODY, headers={"Content-Type": "application/json"})

    app.state.room.left = len(BODY) - 1
    for path in ("/store", "/items", "/items/bulk"):
        response = await post(path)
        check_problem(response, 503, "unavailable")
        assert response.headers["retry-after"] == "1"
    app.state.room.left = len(BODY)
    for path, status in {"/store": 200, "/items": 201, "/items/bulk": 422}.items():
        assert (await post(path)).status_code == status
    assert app.state.room.left == len(BODY)  # given back each time
