"""Plain operations are called directly, and others by FastAPI, with equal results."""

from collections.abc import Callable
from typing import Annotated, Any
from unittest.mock import Mock

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Response
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute

from service.http.dispatch import Dispatcher
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
    app.include_router(twins())
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


async def answered_by(settings: Settings, add: Callable[[FastAPI], None], path: str) -> str:
    """Return what GET says, with the routes that `add` adds; assert that FastAPI says the same."""
    answers = []
    for is_direct in (True, False):
        app = create_app(settings)
        add(app)
        async with serving(app) as client:
            if not is_direct:
                app.dependency_overrides[nothing] = nothing
            answers.append((await client.get(path)).text)
    assert answers[0] == answers[1]
    return answers[0]


def says(text: str) -> Any:
    async def operation() -> Response:
        return PlainTextResponse(text)

    return operation


@pytest.mark.parametrize(
    ("paths", "path", "answer"),
    [
        (["/shop/{id}", "/shop/new"], "/shop/new", "/shop/{id}"),
        (["/shop/new", "/shop/{id}"], "/shop/new", "/shop/new"),
        (["/shop/{id:id}", "/shop/bulk"], "/shop/bulk", "/shop/bulk"),
        (["/shop/{id}", "/shop/{name}"], "/shop/new", "/shop/{id}"),
        (["/shop/{id}"], "/shop/a%20b", "/shop/{id}"),
        (["/{all:path}", "/shop/{id}"], "/shop/new", "/{all:path}"),
        (["/{part}/new", "/shop/{id}"], "/shop/new", "/{part}/new"),
        (["/shop/{id}/lines", "/shop/{id}"], "/shop/new", "/shop/{id}"),
        (["/shop/{id:int}", "/shop/{id}"], "/shop/7", "/shop/{id:int}"),
        (["/shop/{id:int}", "/shop/{id}"], "/shop/new", "/shop/{id}"),
        (["fastapi /shop/{id}", "/shop/new"], "/shop/new", "fastapi /shop/{id}"),
        (["fastapi /shop/new", "/shop/{id}"], "/shop/new", "fastapi /shop/new"),
        (["fastapi /shop/new", "/shop/{id}"], "/shop/old", "/shop/{id}"),
        (["mount /shop", "/shop/new"], "/shop/new", "mounted"),
        (["mount /shop", "/shopping"], "/shopping", "/shopping"),
    ],
)
async def test_the_first_route_that_matches_answers(
    settings: Settings, paths: list[str], path: str, answer: str
) -> None:
    def add(app: FastAPI) -> None:
        for spec in paths:
            kind, _, of_kind = spec.rpartition(" ")
            router = APIRouter(route_class=APIRoute if kind else StrictRoute)
            if kind == "mount":
                app.mount(of_kind, PlainTextResponse("mounted"))
            else:
                router.add_api_route(of_kind, says(spec))
                app.include_router(router)

    assert await answered_by(settings, add, path) == answer


def test_every_operation_that_clients_call_often_is_called_directly(settings: Settings) -> None:
    dispatcher = Dispatcher(create_app(settings))
    assert dispatcher.whole.keys() == {
        *(("POST", path) for path in ("/items", "/items/bulk")),
        *(("GET", path) for path in ("/items", "/items/export")),
    }
    methods = ("GET", "PUT", "PATCH")
    assert dispatcher.up_to_parameter.keys() == {(method, "/items/") for method in methods}


async def test_a_router_below_a_prefix_is_called_directly_too(settings: Settings) -> None:
    app, router = create_app(settings), APIRouter(route_class=StrictRoute)
    router.add_api_route("/shop/{id}", says("shop"))
    app.include_router(router, prefix="/v2")

    assert ("GET", "/v2/shop/") in Dispatcher(app).up_to_parameter
    async with serving(app) as client:
        assert (await client.get("/v2/shop/1")).text == "shop"
        assert (await client.get("/shop/1")).status_code == 404


async def test_the_prefix_that_a_gateway_removes_is_no_part_of_the_path(settings: Settings) -> None:
    app = create_app(settings)
    app.root_path = "/shop"
    async with serving(app) as client:
        answers = [await client.get(path) for path in ("/items/0", "/shop/items/0")]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert {answer.json()["detail"] for answer in answers} == {"There is no item with this id"}


@pytest.mark.parametrize("where", ["route", "router", "include"])
async def test_a_dependency_runs_wherever_it_is_declared(settings: Settings, where: str) -> None:
    app = FastAPI()
    app.state.service = Mock(settings=settings, gate=None)
    dependencies = {where: [Depends(refuse)]}
    router = APIRouter(route_class=StrictRoute, dependencies=dependencies.get("router"))

    @router.get("/secret", dependencies=dependencies.get("route"))
    async def secret() -> Response:
        return json_response("secret")

    app.include_router(router, dependencies=dependencies.get("include"))
    for serve in (app.router.app, Dispatcher(app)):
        app.router.middleware_stack = serve
        async with client_of(app) as client:
            assert (await client.get("/secret")).status_code == 401


async def test_a_query_of_a_dependency_is_known_wherever_that_is_declared(
    settings: Settings,
) -> None:
    async def filtered(colour: str) -> None:
        pass

    app, router = create_app(settings), APIRouter(route_class=StrictRoute)
    router.add_api_route("/shop", says("shop"))
    app.include_router(router, dependencies=[Depends(filtered)])
    async with serving(app) as client:
        assert (await client.get("/shop?colour=red")).text == "shop"
        assert (await client.get("/shop")).status_code == 422
        assert (await client.get("/shop?colour=red&size=1")).status_code == 422

        router.add_api_route("/more", says("more"))  # FastAPI makes its handlers anew
        assert (await client.get("/shop?colour=red")).text == "shop"
        assert (await client.get("/shop?colour=red&size=1")).status_code == 422
