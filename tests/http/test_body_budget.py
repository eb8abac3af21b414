"""The memory for request bodies: one budget for all of a worker."""

import asyncio
from typing import Annotated

import httpx2 as httpx
from fastapi import APIRouter, Depends, FastAPI, Response

from service.http.body import SMALL
from service.http.routing import BulkRoute, StrictRoute
from service.schemas.item import ItemCreate
from service.state import state_of
from tests.support.problems import check_problem
from tests.support.waiting import until

BODY = b'{"name": "Lamp", "other": "' + b"x" * SMALL + b'"}'


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

    state_of(app).body_budget.left = len(BODY) - 1
    for path in ("/store", "/items", "/items/bulk"):
        response = await post(path)
        check_problem(response, 503, "unavailable")
        assert response.headers["retry-after"] == "1"
    state_of(app).body_budget.left = len(BODY)
    for path, status in {"/store": 200, "/items": 201, "/items/bulk": 422}.items():
        assert (await post(path)).status_code == status
    assert state_of(app).body_budget.left == len(BODY)  # given back each time
    assert not state_of(app).large_bodies.locked()


async def test_small_bodies_need_none_of_the_memory_of_large_ones(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    state_of(app).body_budget.left = 0
    assert (await client.post("/items", json={"name": "Lamp"})).status_code == 201


async def test_large_bodies_are_handled_one_after_another(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    start = state_of(app).body_budget.left
    handled: list[str] = []
    may_go_on = asyncio.Event()
    router = APIRouter(route_class=BulkRoute)

    @router.post("/wait")
    async def wait(body: ItemCreate) -> Response:
        handled.append(body.name)
        await may_go_on.wait()
        return Response()

    app.include_router(router)

    async def post() -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        return await client.post("/wait", content=BODY, headers=headers)

    requests = [asyncio.create_task(post()) for _ in range(3)]
    await until(lambda: state_of(app).body_budget.left == start - 3 * len(BODY))
    assert handled == ["Lamp"]
    assert (await client.post("/items", json={"name": "Small"})).status_code == 201
    may_go_on.set()
    assert [(await request).status_code for request in requests] == [200] * 3
    assert state_of(app).body_budget.left == start
