"""StrictRoute calls plain operations directly and leaves others to FastAPI, with equal results."""

from typing import Annotated, Any
from unittest.mock import Mock

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Response

from service.http.responses import json_response
from service.http.routing import StrictRoute
from service.main import create_app
from service.schemas.item import ItemCreate
from service.schemas.item_list import ItemListQuery
from service.settings import Settings
from tests.support.apps import client_of, serving

JSON = {"Content-Type": "application/json"}
TEXT = {"Content-Type": "text/plain"}
LAMP = b'{"name": "Lamp"}'

# Status, method, path and what else a request has.
REQUESTS: list[tuple[int, str, str, dict[str, Any]]] = [
    (200, "POST", "/echo", {"json": {"name": " Lamp ", "price": 1.5, "other": 1}}),
    (422, "POST", "/echo", {"json": {"name": "", "price": -1, "is_active": "yes"}}),
    (422, "POST", "/echo", {"json": []}),
    (422, "POST", "/echo", {"content": b"1.5", "headers": JSON}),
    (422, "POST", "/echo", {"content": b'{"name": ', "headers": JSON}),
    (422, "POST", "/echo", {"content": b"", "headers": JSON}),
    (422, "POST", "/echo", {"content": LAMP}),
    (422, "POST", "/echo", {"content": LAMP, "headers": TEXT}),
    (422, "POST", "/echo", {"content": LAMP, "headers": JSON, "params": {"unknown": 1}}),
    (413, "POST", "/echo", {"content": b"x" * 2_000_000, "headers": JSON}),
    (200, "GET", "/search", {}),
    (200, "GET", "/search", {"params": {"page": 2, "q": " a", "is_active": "true"}}),
    (422, "GET", "/search", {"params": {"page": 0, "per_page": "", "unknown": 1}}),
    (200, "GET", "/read/7", {}),
    (422, "GET", "/read/0", {}),
    (422, "GET", "/read/seven", {}),
    (422, "GET", "/read/7", {"params": {"unknown": 1}}),
    (404, "GET", "/read", {}),
    (405, "DELETE", "/read/7", {}),
]


def nothing() -> None:
    """A dependency, which keeps an operation from being called directly."""


def refuse() -> None:
    raise HTTPException(401)


def twins() -> APIRouter:
    """Return each operation twice: plain below /plain, with a dependency below /solved."""
    router = APIRouter(route_class=StrictRoute)

    async def echo(body: ItemCreate) -> Response:
        return json_response(body.to_domain())

    async def search(query: Annotated[ItemListQuery, Query()]) -> Response:
        return json_response(query.to_domain())

    async def read(number: Annotated[int, Path(ge=1)]) -> Response:
        return json_response(number)

    for prefix, dependencies in (("/plain", []), ("/solved", [Depends(nothing)])):
        router.add_api_route(f"{prefix}/echo", echo, methods=["POST"], dependencies=dependencies)
        router.add_api_route(f"{prefix}/search", search, dependencies=dependencies)
        router.add_api_route(f"{prefix}/read/{{number}}", read, dependencies=dependencies)
    return router


async def test_direct_calls_and_fastapi_give_the_same_responses(settings: Settings) -> None:
    app = create_app(settings)
    app.router.routes.extend(twins().routes)
    async with serving(app) as client:
        for status, method, path, request in REQUESTS:
            answers = []
            for prefix in ("/plain", "/solved"):
                answer = await client.request(method, prefix + path, **request)
                content = answer.json()
                if isinstance(content, dict):
                    content.pop("instance", None)
                    content.pop("request_id", None)
                answers.append((answer.status_code, answer.headers.get("allow"), content))

            assert answers[0] == answers[1], (method, path, str(request)[:80])
            assert answers[0][0] == status


@pytest.mark.parametrize("where", ["route", "router", "include"])
async def test_a_dependency_runs_wherever_it_is_declared(settings: Settings, where: str) -> None:
    app = FastAPI()
    app.state.service = Mock(settings=settings, gate=None)
    dependencies = {where: [Depends(refuse)]}
    router = APIRouter(route_class=StrictRoute, dependencies=dependencies.get("router"))

    @router.get("/secret", dependencies=dependencies.get("route"))
    async def secret() -> Response:
        return json_response("secret")

    if where == "include":
        app.include_router(router, dependencies=dependencies["include"])
    else:
        app.router.routes.extend(router.routes)  # the way create_app adds them
    async with client_of(app) as client:
        assert (await client.get("/secret")).status_code == 401
