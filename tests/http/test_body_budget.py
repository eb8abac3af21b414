"""The memory for request bodies: one budget for all of a worker."""

from typing import Annotated

import httpx2 as httpx
from fastapi import APIRouter, Depends, FastAPI

from service.http.routing import StrictRoute
from service.schemas.item import ItemCreate
from service.state import state_of
from tests.support.problems import check_problem

BODY = b'{"name": "Lamp"}'


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
