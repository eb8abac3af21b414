"""Plain operations are called directly, all others FastAPI's way: a client sees no difference."""

from typing import Annotated, Any

import httpx2 as httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Response

from service.main import create_app
from service.responses import json_response
from service.routing import StrictRoute
from service.schemas.item import ItemCreate
from service.schemas.item_list import ItemListQuery
from service.settings import Settings
from tests.support.apps import serving


def nothing() -> None:
    """A dependency, which keeps an operation from being called directly."""


def guard() -> None:
    raise HTTPException(401, "who are you")


def twins(router: APIRouter) -> None:
    """Add each operation twice: plain under /plain, with a dependency under /solved."""

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


@pytest.fixture
async def client(settings: Settings) -> Any:
    app = create_app(settings)
    router = APIRouter(route_class=StrictRoute)
    twins(router)
    app.router.routes.extend(router.routes)
    async with serving(app) as client:
        yield client


JSON = {"Content-Type": "application/json"}
TEXT = {"Content-Type": "text/plain"}


@pytest.mark.parametrize(
    ("method", "path", "request_"),
    [
        ("POST", "/echo", {"json": {"name": " Lamp ", "price": 1.5, "other": 1}}),
        ("POST", "/echo", {"json": {"name": "", "price": -1, "is_active": "yes"}}),
        ("POST", "/echo", {"json": []}),
        ("POST", "/echo", {"json": None}),
        ("POST", "/echo", {"content": b'{"name": ', "headers": JSON}),
        ("POST", "/echo", {"content": b"", "headers": JSON}),
        ("POST", "/echo", {"content": b'{"name": "Lamp"}'}),
        (
            "POST",
            "/echo",
            {"content": b'{"name": "Lamp"}', "headers": {"Content-Type": "text/plain"}},
        ),
        ("POST", "/echo", {"json": {"name": "Lamp"}, "params": {"unknown": 1}}),
        ("POST", "/echo", {"content": b"x" * 2_000_000, "headers": JSON}),
        ("GET", "/search", {}),
        (
            "GET",
            "/search",
            {"params": {"page": 2, "q": " a", "is_active": "true"}},
        ),
        ("GET", "/search", {"params": {"page": 0, "per_page": "x", "sort": "size", "unknown": 1}}),
        ("GET", "/search", {"params": {"page": 900_000}}),
        ("GET", "/read/7", {}),
        ("GET", "/read/0", {}),
        ("GET", "/read/seven", {}),
        ("GET", "/read/7", {"params": {"unknown": 1}}),
        ("GET", "/read", {}),
        ("DELETE", "/read/7", {}),
    ],
)
async def test_both_ways_answer_the_same(
    client: httpx.AsyncClient, method: str, path: str, request_: dict[str, Any]
) -> None:
    answers = []
    for prefix in ("/plain", "/solved"):
        answer = await client.request(method, prefix + path, **request_)
        content = answer.json()
        if isinstance(content, dict):
            content.pop("instance", None)
            content.pop("request_id", None)
        answers.append((answer.status_code, answer.headers.get("allow"), content))

    assert answers[0] == answers[1]


@pytest.mark.parametrize("where", ["route", "router", "include"])
async def test_no_dependency_is_skipped(settings: Settings, where: str) -> None:
    app = FastAPI()
    app.state.settings, app.state.gate = settings, None
    guards = {
        name: [Depends(guard)] if name == where else [] for name in ("route", "router", "include")
    }
    router = APIRouter(route_class=StrictRoute, dependencies=guards["router"])

    @router.get("/secret", dependencies=guards["route"])
    async def secret() -> Response:
        return json_response("secret")

    app.include_router(router, dependencies=guards["include"])
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test"
    ) as client:
        answer = await client.get("/secret")

    assert answer.status_code == 401
