"""What an engineer adds to the application works as in a plain FastAPI application."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
    File,
    Form,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
    UploadFile,
    WebSocket,
)
from fastapi.responses import HTMLResponse, StreamingResponse
from fastapi.routing import APIRoute
from openapi_spec_validator import validate
from pydantic import BaseModel, Field
from sqlalchemy import text
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.types import ASGIApp, Receive, Scope, Send

from service import main
from service.http import checks
from service.http.routing import StrictRoute
from service.main import create_app
from service.routers.item import get_calls
from service.settings import Settings
from service.state import state_of
from tests.support.apps import client_of, serving
from tests.support.logs import reading_log


class Order(BaseModel):
    name: str
    tags: list[str] = []


class Public(BaseModel):
    name: str


@dataclass
class Point:
    x: int
    y: int


class Filters(BaseModel):
    tag: list[str] = []
    size: int = 5
    wide: Annotated[int, Field(alias="width")] = 1


class Pager:
    def __init__(self, skip: int = 0, limit: int = 10) -> None:
        self.skip, self.limit = skip, limit


def blocking() -> str:
    return "from a thread"


async def of_request(request: Request) -> str:
    return request.url.path


async def of_dependency(path: Annotated[str, Depends(of_request)]) -> str:
    return f"<{path}>"


async def of_query(skip: int = 0) -> int:
    return skip


def operations(router: APIRouter, done: list[str]) -> None:
    """Add an operation for each way in which FastAPI's documentation writes one."""

    async def opened() -> AsyncIterator[str]:
        done.append("open")
        yield "open"
        done.append("closed")

    def opened_in_thread() -> Iterator[str]:
        yield "open"
        done.append("closed in a thread")

    @router.get("/def")
    def in_thread(x: int = 1) -> dict[str, int]:
        return {"x": x}

    @router.get("/response")
    async def response() -> Response:
        return HTMLResponse("<p>", 202, {"X-Own": "1"})

    @router.get("/wrong-annotation")
    async def wrong_annotation() -> Response:
        # FastAPI does not mind, so neither may the compiled path.
        return {"a": 1}  # type: ignore[return-value]

    @router.get("/model")
    async def model() -> Order:
        return Order(name="a")

    @router.get("/dataclass")
    async def point() -> Point:
        return Point(1, 2)

    @router.get("/dict", status_code=203)
    async def some() -> dict[str, Any]:
        return {"point": Point(1, 2), "order": Order(name="b")}

    @router.get("/nothing")
    async def nothing() -> None:
        return None

    @router.get("/response-model", response_model=Public)
    async def filtered() -> Any:
        return {"name": "a", "secret": "b"}

    @router.get("/html", response_class=HTMLResponse)
    async def html() -> str:
        return "<p>"

    @router.get("/stream", response_class=StreamingResponse)
    async def stream() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    @router.get("/lines")
    async def lines() -> AsyncIterator[Point]:
        yield Point(1, 2)

    @router.get("/list-query")
    async def list_query(tag: Annotated[list[str], Query()]) -> Response:
        return HTMLResponse(repr(tag))

    @router.get("/query-model")
    async def query_model(query: Annotated[Filters, Query()]) -> Response:
        return HTMLResponse(repr(query))

    @router.get("/path/{number}/{word}")
    async def in_path(word: str, number: Annotated[int, Path(ge=1)]) -> Response:
        return HTMLResponse(repr((number, word)))

    @router.post("/body")
    async def body(order: Order) -> Response:
        return HTMLResponse(repr(order))

    @router.post("/bodies")
    async def bodies(order: Order, point: Point, note: Annotated[str, Body()] = "-") -> Response:
        return HTMLResponse(repr((order, point, note)))

    @router.post("/embedded")
    async def embedded(order: Annotated[Order, Body(embed=True)]) -> Response:
        return HTMLResponse(repr(order))

    @router.post("/list-body")
    async def list_body(orders: list[Order]) -> Response:
        return HTMLResponse(repr(orders))

    @router.post("/optional-body")
    async def optional_body(order: Order | None = None) -> Response:
        return HTMLResponse(repr(order))

    @router.post("/form")
    async def form(name: Annotated[str, Form()], file: Annotated[bytes, File()]) -> Response:
        return HTMLResponse(repr((name, file)))

    @router.post("/upload")
    async def upload(file: UploadFile) -> Response:
        return HTMLResponse(repr((file.filename, await file.read())))

    @router.get("/header")
    async def header(x_own: Annotated[str, Header()] = "-") -> Response:
        return HTMLResponse(x_own)

    @router.get("/cookie")
    async def cookie(own: Annotated[str, Cookie()] = "-") -> Response:
        return HTMLResponse(own)

    @router.get("/background")
    async def background(tasks: BackgroundTasks) -> Response:
        tasks.add_task(done.append, "background")
        return HTMLResponse("")

    @router.get("/response-parameter")
    async def changes(response: Response) -> dict[str, int]:
        response.status_code = 206
        response.headers["X-Own"] = "1"
        response.set_cookie("own", "1")
        return {}

    @router.get("/dependencies")
    async def depends(
        request: Request,
        thread: Annotated[str, Depends(blocking)],
        path: Annotated[str, Depends(of_request)],
        nested: Annotated[str, Depends(of_dependency)],
        skip: Annotated[int, Depends(of_query)],
        pager: Annotated[Pager, Depends()],
    ) -> Response:
        return HTMLResponse(repr((thread, path, nested, skip, vars(pager))))

    @router.get("/plain-dependencies")
    async def plain(
        path: Annotated[str, Depends(of_request)],
        nested: Annotated[str, Depends(of_dependency)],
    ) -> Response:
        return HTMLResponse(repr((path, nested)))

    @router.get("/yield")
    async def yielded(
        one: Annotated[str, Depends(opened)], two: Annotated[str, Depends(opened_in_thread)]
    ) -> Response:
        return HTMLResponse(one + two)

    @router.get("/error")
    async def error() -> Response:
        raise HTTPException(418, headers={"X-Own": "1"})


REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    *(("GET", path, {}) for path in ("/def", "/def?x=2", "/response", "/wrong-annotation")),
    *(("GET", path, {}) for path in ("/model", "/dataclass", "/dict", "/nothing", "/html")),
    *(("GET", path, {}) for path in ("/response-model", "/stream", "/lines")),
    *(("GET", path, {}) for path in ("/list-query?tag=a&tag=b", "/query-model?tag=a&width=3")),
    *(("GET", path, {}) for path in ("/query-model", "/path/1/a%20b", "/path/0/a", "/path/x/a")),
    ("POST", "/body", {"json": {"name": "a", "tags": ["b"]}}),
    ("POST", "/body", {"json": {"tags": 1}}),
    ("POST", "/bodies", {"json": {"order": {"name": "a"}, "point": {"x": 1, "y": 2}}}),
    ("POST", "/embedded", {"json": {"order": {"name": "a"}}}),
    ("POST", "/list-body", {"json": [{"name": "a"}, {"name": "b"}]}),
    ("POST", "/optional-body", {"json": {"name": "a"}}),
    ("POST", "/form", {"data": {"name": "a"}, "files": {"file": b"content"}}),
    ("POST", "/upload", {"files": {"file": b"content"}}),
    ("GET", "/header", {"headers": {"X-Own": "a"}}),
    ("GET", "/cookie", {"headers": {"Cookie": "own=a"}}),
    *(("GET", path, {}) for path in ("/background", "/response-parameter", "/yield", "/error")),
    *(("GET", path, {}) for path in ("/dependencies?skip=2&limit=3", "/plain-dependencies")),
]
COMPARED = ("content-type", "x-own", "set-cookie")


@pytest.mark.parametrize("route_class", [APIRoute, StrictRoute])
async def test_operations_respond_as_those_of_a_plain_application(
    settings: Settings, route_class: type[APIRoute]
) -> None:
    plain, ours = FastAPI(), create_app(settings)
    done: dict[FastAPI, list[str]] = {plain: [], ours: []}
    router, strict = APIRouter(), APIRouter(route_class=route_class)
    operations(router, done[plain])
    operations(strict, done[ours])
    plain.include_router(router)
    ours.include_router(strict)
    async with client_of(plain) as expected, serving(ours) as client:
        for method, path, options in REQUESTS:
            given = await client.request(method, path, **options)
            wanted = await expected.request(method, path, **options)
            assert given.status_code == wanted.status_code, (path, given.text)
            if wanted.is_success:
                assert given.content == wanted.content, path
                for name in COMPARED:
                    assert given.headers.get(name) == wanted.headers.get(name), path
    assert done[ours] == done[plain] != []


class Marker:
    """A pure ASGI middleware."""

    def __init__(self, app: ASGIApp, seen: list[str]) -> None:
        self.app = app
        self.seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(scope["type"])
        await self.app(scope, receive, send)


class Based(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["X-Based"] = "1"
        return response


async def test_a_middleware_of_any_kind_runs(settings: Settings) -> None:
    app, seen = create_app(settings), []  # type: tuple[FastAPI, list[str]]
    app.add_middleware(Marker, seen=seen)
    app.add_middleware(Based)

    @app.middleware("http")
    async def last(request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["X-Last"] = "1"
        return response

    async with serving(app) as client:
        for path in ("/items", "/health/live", "/none"):
            answer = await client.get(path)
            assert (answer.headers["x-based"], answer.headers["x-last"]) == ("1", "1")
    assert seen == ["http"] * 3


@pytest.mark.parametrize("error", [OSError("disk"), TimeoutError(), ConnectionError(), KeyError()])
async def test_an_error_of_ones_own_code_is_a_500_with_its_trace_in_the_log(
    settings: Settings, error: Exception
) -> None:
    app, calls = create_app(settings), []  # type: tuple[FastAPI, list[int]]
    router = APIRouter(route_class=StrictRoute)

    @router.get("/pay")
    async def pay() -> Response:
        calls.append(1)
        raise error

    app.include_router(router)
    with reading_log() as log:
        async with serving(app) as client:
            answer = await client.get("/pay")
        (event,) = log.events("unhandled_error")

    assert (answer.status_code, answer.json()["type"]) == (500, "urn:items-service:internal-error")
    assert event["exception"][0]["exc_type"] == type(error).__name__
    assert calls == [1]


async def test_a_handler_runs_once_whatever_the_database_does(settings: Settings) -> None:
    app, calls = create_app(settings), []  # type: tuple[FastAPI, list[int]]
    router = APIRouter(route_class=StrictRoute)

    @router.post("/pay")
    async def pay(request: Request) -> Response:
        calls.append(1)
        sessions = state_of(request).sessions
        async with sessions.begin() as session:
            conn = await session.connection()
            driver: Any = (await conn.get_raw_connection()).driver_connection
            driver.terminate()
            await session.execute(text("SELECT 1"))
        return Response()

    app.include_router(router)
    async with serving(app) as client:
        assert (await client.post("/pay")).status_code == 503
    assert calls == [1]


async def test_handlers_of_exceptions_run(settings: Settings) -> None:
    app = create_app(settings)

    async def handle(request: Request, error: Exception) -> Response:
        return HTMLResponse(type(error).__name__, 418)

    app.add_exception_handler(KeyError, handle)
    app.add_exception_handler(Exception, handle)

    @app.get("/{name}")
    async def fail(name: str) -> Response:
        raise {"key": KeyError, "value": ValueError}[name]

    async with serving(app) as client:
        assert (await client.get("/key")).text == "KeyError"
        answer = await client.get("/value")
    assert (answer.status_code, answer.text) == (418, "ValueError")
    assert answer.headers["x-request-id"]


async def test_dependencies_can_be_overridden(settings: Settings) -> None:
    app = create_app(settings)
    router = APIRouter(route_class=StrictRoute)
    operations(router, [])
    app.include_router(router)
    app.dependency_overrides[of_request] = lambda: "overridden"
    async with serving(app) as client:
        answers = [await client.get(path) for path in ("/plain-dependencies", "/dependencies")]
        # Overrides apply to the service's own operations as well.
        app.dependency_overrides[get_calls] = lambda: Empty()
        assert (await client.get("/items/1")).status_code == 404
    assert all("overridden" in answer.text for answer in answers)


class Empty:
    async def get(self, item_id: int) -> None:
        return None


async def test_a_dependency_of_the_application_runs_for_every_operation(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    async def note(request: Request) -> None:
        seen.append(request.url.path)

    monkeypatch.setattr(main, "count_request", note)  # in place of a second one
    app = create_app(settings)
    async with serving(app) as client:
        for path in ("/items", "/health/live"):
            assert (await client.get(path)).status_code == 200
    assert seen == ["/items", "/health/live"]


async def test_a_websocket_without_its_library_keeps_the_service_from_starting(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    app = create_app(settings)

    @app.websocket("/chat")
    async def chat(websocket: WebSocket) -> None: ...

    with pytest.raises(SystemExit, match="/chat is a WebSocket"):
        async with serving(app):
            pass


async def test_a_prefix_that_a_gateway_removes_is_in_every_address(settings: Settings) -> None:
    app = create_app(settings)
    app.root_path = "/shop/v1"
    async with serving(app) as client:
        answer = await client.post("/items", json={"name": "Lamp"})
        assert answer.headers["location"] == f"/shop/v1/items/{answer.json()['id']}"
        await client.post("/items", json={"name": "Lamp"})
        link = (await client.get("/items?per_page=1")).headers["link"]
    assert link.startswith("</shop/v1/items?per_page=1&page=1>")


async def test_the_document_describes_whatever_an_operation_declares(settings: Settings) -> None:
    app, router = create_app(settings), APIRouter()
    operations(router, [])

    @router.get("/union", responses={418: {"description": "A teapot"}, 404: {"model": Public}})
    async def union(x: int | str | None = None, y: list[int] | None = None) -> None: ...

    app.include_router(router)
    async with serving(app) as client:
        document = (await client.get("/openapi.json")).json()

    del document["paths"]["/lines"]  # has `itemSchema`, of OpenAPI 3.2
    validate(document)
    responses = document["paths"]["/union"]["get"]["responses"]
    assert responses["404"]["content"]["application/json"]["schema"]["$ref"].endswith("/Public")
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    assert responses["422"]["content"] == problem
