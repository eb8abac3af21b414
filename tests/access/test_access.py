"""Who may call: each operation takes one scope, and a request without it is refused."""

import json
import re
from collections.abc import AsyncIterator, Callable
from itertools import combinations
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Response, WebSocket
from fastapi.routing import iter_route_contexts
from starlette.routing import Route

from service.access.scopes import PUBLIC, required_scopes, requires
from service.domain.api_key import SCOPES, create_key, digest_of, parse_keys
from service.http.routing import StrictRoute
from service.main import create_app
from service.settings import Settings
from tests.support.apps import client_of, serving
from tests.support.commands import items
from tests.support.openapi import example, operations
from tests.support.problems import check_problem
from tests.support.samples import LAMP

READ, WRITE, DELETE = ITEMS = ("items:read", "items:write", "items:delete")
# The actions that the scope of an operation may name.
ACTIONS = {
    "GET": {"read"},
    "POST": {"write"},
    "PUT": {"write"},
    "PATCH": {"write"},
    "DELETE": {"write", "delete"},
}
# Each combination of the scopes of items, each scope alone, and all but one.
COMBINATIONS = dict.fromkeys(
    [
        *(scopes for size in (1, 2, 3) for scopes in combinations(ITEMS, size)),
        *((scope,) for scope in SCOPES),
        *(tuple(other for other in SCOPES if other != scope) for scope in SCOPES),
        SCOPES,
    ]
)
# A key and its entry for each of them.
MADE = {
    scopes: create_key(f"client-{number}", scopes) for number, scopes in enumerate(COMBINATIONS)
}
KEYS = {scopes: key for scopes, (key, _) in MADE.items()}
KEY = KEYS[SCOPES]
WRONG = "items_hunter2hunter2hunter2hunter2hunter2hunter2hunt"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The default settings, with keys."""
    settings.api_keys = parse_keys("\n".join(entry for _, entry in MADE.values()))
    return settings


@pytest.fixture
async def item(client: httpx.AsyncClient) -> Any:
    """The only item there is."""
    return (await client.post("/items", json={"name": "Only"}, headers=bearer(KEY))).json()


def bearer(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key is not None else {}


def needs(app: FastAPI) -> dict[tuple[str, str], str]:
    """Return the scope of each operation that declares one, by method and path."""
    found: dict[tuple[str, str], str] = {}
    for route in iter_route_contexts(app.routes):
        if scopes := required_scopes(getattr(route, "dependant", None)):
            (scope,) = scopes
            found |= {(method, str(route.path_format)): scope for method in route.methods or ()}
    return found


def calls(app: FastAPI) -> list[tuple[str, str, str]]:
    """Return the method, path and scope of each operation; HEAD counts as one. DELETE is last."""
    found = [(*operation, scope) for operation, scope in needs(app).items()]
    heads = [("HEAD", path, scope) for method, path, scope in found if method == "GET"]
    return sorted([*found, *heads], key=lambda call: call[0] == "DELETE")


async def call(app: FastAPI, method: str, path: str, key: str | None) -> httpx.Response:
    """Send a request that succeeds if `key` has the scope and the row 1 exists."""
    operation = app.openapi()["paths"][path]["get" if method == "HEAD" else method.lower()]
    body = None
    if "requestBody" in operation:
        body = example(app.openapi(), operation["requestBody"]["content"])
    address = re.sub("{.*}", "1", path)
    async with client_of(app) as client:
        return await client.request(method, address, json=body, headers=bearer(key))


async def rows(app: FastAPI) -> list[Any]:
    """Return the rows of every resource."""
    lists = [path for method, path in needs(app) if method == "POST" and path.count("/") == 1]
    return [(await call(app, "GET", path, KEY)).json()["items"] for path in lists]


async def assert_only(client: httpx.AsyncClient, item: Any) -> None:
    """Assert that `item` is unchanged and that there is no other."""
    assert (await client.get("/items", headers=bearer(KEY))).json()["items"] == [item]


def check_unauthorized(answer: httpx.Response) -> None:
    assert answer.status_code == 401, answer.text
    if answer.request.method != "HEAD":
        check_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith('Bearer realm="items"')


def check_forbidden(answer: httpx.Response, scope: str) -> None:
    assert answer.status_code == 403, answer.text
    if answer.request.method != "HEAD":
        check_problem(answer, 403, "forbidden")
    challenge = f'Bearer realm="items", error="insufficient_scope", scope="{scope}"'
    assert answer.headers["www-authenticate"] == challenge


async def test_without_keys_everyone_may_do_everything(settings: Settings) -> None:
    settings.api_keys = ()
    async with serving(create_app(settings)) as client:
        for headers in ({}, bearer(WRONG)):
            created = await client.post("/items", json=LAMP, headers=headers)
            address = created.headers["location"]
            read = await client.get(address, headers=headers)
            removed = await client.delete(f"{address}?permanent=true", headers=headers)

            assert [a.status_code for a in (created, read, removed)] == [201, 200, 204]


async def test_the_scope_of_an_operation_names_its_resource_and_action(app: FastAPI) -> None:
    found = needs(app)
    for (method, path), scope in found.items():
        resource, action = scope.split(":")
        assert resource == path.split("/")[1]
        assert action in ACTIONS[method], (method, path)

    # Where DELETE deactivates, the scope for deletions is required by `?permanent=true` only.
    permanent = {scope for scope in SCOPES if scope.endswith(":delete")}
    assert {*found.values()} | permanent == {*SCOPES}


async def test_every_operation_but_the_public_ones_declares_a_scope(app: FastAPI) -> None:
    documented = {path for _, path in operations(app.openapi())}

    assert documented - {path for _, path in needs(app)} <= PUBLIC


async def test_an_operation_takes_its_scope_and_no_other(app: FastAPI) -> None:
    for method, path in needs(app):
        if method == "POST" and path.count("/") == 1:
            assert (await call(app, method, path, KEY)).status_code == 201
    before = await rows(app)
    for method, path, scope in calls(app):
        others = tuple(other for other in SCOPES if other != scope)
        check_unauthorized(await call(app, method, path, None))
        check_unauthorized(await call(app, method, path, WRONG))
        check_forbidden(await call(app, method, path, KEYS[others]), scope)
    assert await rows(app) == before

    for method, path, scope in calls(app):
        answer = await call(app, method, path, KEYS[(scope,)])
        assert answer.is_success, (method, path, answer.text)


async def test_the_scheme_is_case_insensitive(client: httpx.AsyncClient) -> None:
    for scheme in ("bearer", "BEARER", "Bearer "):
        headers = {"Authorization": f"{scheme} {KEY}"}
        assert (await client.get("/items", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "query", ["permanent=true", "permanent=1", "permanent=on", "permanent=false&permanent=%54rue"]
)
async def test_a_permanent_delete_takes_one_more_scope(
    client: httpx.AsyncClient, item: Any, query: str
) -> None:
    for id_ in (item["id"], 999_999):  # whether it exists is not revealed
        answer = await client.delete(f"/items/{id_}?{query}", headers=bearer(KEYS[READ, WRITE]))
        check_forbidden(answer, DELETE)
    await assert_only(client, item)

    answer = await client.delete("/items/1?" + query, headers=bearer(KEYS[WRITE, DELETE]))
    assert answer.status_code == 204
    assert (await client.get("/items/1", headers=bearer(KEY))).status_code == 404


def plain(app: FastAPI) -> None:
    app.get("/secret")(lambda: "secret")


def strict(app: FastAPI) -> None:
    router = APIRouter(route_class=StrictRoute)
    router.get("/secret")(lambda: "secret")
    app.include_router(router)


def below(app: FastAPI) -> None:
    router = APIRouter(dependencies=[Depends(lambda: None)])
    router.get("/secret")(lambda: "secret")
    outer = APIRouter()
    outer.include_router(router, prefix="/below")
    app.include_router(outer)


def starlette(app: FastAPI) -> None:
    app.router.routes.append(Route("/secret", lambda request: Response("secret")))


def websocket(app: FastAPI) -> None:
    @app.websocket("/secret")
    async def secret(websocket: WebSocket) -> None:
        await websocket.accept()


def mounted(app: FastAPI) -> None:
    app.mount("/secret", FastAPI())


@pytest.mark.parametrize("add", [plain, strict, below, starlette, websocket, mounted])
async def test_with_keys_a_route_without_a_scope_keeps_the_service_from_starting(
    settings: Settings, add: Callable[[FastAPI], None]
) -> None:
    app = create_app(settings)
    add(app)
    with pytest.raises(SystemExit, match="/secret may be called without an API key"):
        async with serving(app):
            pass


async def test_without_keys_no_route_needs_a_scope(settings: Settings) -> None:
    settings.api_keys = ()
    app = create_app(settings)
    plain(app)
    async with serving(app) as client:
        assert (await client.get("/secret")).json() == "secret"


@pytest.mark.parametrize("where", ["route", "router", "include", "method"])
async def test_a_scope_may_be_declared_wherever_fastapi_takes_dependencies(
    settings: Settings, where: str
) -> None:
    app = create_app(settings)
    needs = {where: [requires(WRITE)]}
    router = APIRouter(dependencies=needs.get("router"))
    router.get("/secret", dependencies=needs.get("route"))(lambda: "secret")
    app.include_router(router, dependencies=needs.get("include"))
    if where == "method":
        app.router.routes.pop()
        app.get("/secret", dependencies=needs["method"])(lambda: "secret")
    async with serving(app) as client:
        answers = [
            await client.get("/secret", headers=bearer(key))
            for key in (None, WRONG, KEYS[(READ,)], KEYS[(WRITE,)])
        ]

    assert [answer.status_code for answer in answers] == [401, 401, 403, 200]


async def test_a_write_includes_reading_the_item_that_it_writes(
    client: httpx.AsyncClient, item: Any
) -> None:
    answer = await client.patch("/items/1", json={}, headers=bearer(KEYS[(WRITE,)]))
    assert (answer.status_code, answer.json()) == (200, item)
    assert (await client.get("/items/1", headers=bearer(KEYS[(WRITE,)]))).status_code == 403


async def test_an_unknown_credential_gets_401_and_is_not_repeated(
    client: httpx.AsyncClient,
) -> None:
    for header in (
        "",
        "Bearer",
        KEY,
        f"Basic {KEY}",
        f"Bearer{KEY}",
        f"Basic x, Bearer {KEY}",
        f"Bearer {WRONG}",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY}x",
        f"Bearer {KEY.swapcase()}",
        f'Bearer "{KEY}"',
        f"Bearer {digest_of(KEY)}",
        f"Bearer {KEY}\u00ff",
        "Bearer " + "x" * 1_000_000,
    ):
        answer = await client.get("/items", headers=[(b"Authorization", header.encode("latin-1"))])

        check_unauthorized(answer)
        assert 'error="invalid_token"' in answer.headers["www-authenticate"], header
        assert KEY not in answer.text + str(answer.headers)
    # Without any, there is nothing to call invalid (RFC 6750, section 3.1).
    assert (await client.get("/items")).headers["www-authenticate"] == 'Bearer realm="items"'


async def test_a_key_outside_the_authorization_header_is_ignored(client: httpx.AsyncClient) -> None:
    for options in (
        {"params": {"access_token": KEY}},
        {"headers": {"X-API-Key": KEY, "Cookie": f"Authorization=Bearer {KEY}"}},
        {"headers": {"Proxy-Authorization": f"Bearer {KEY}"}},
        {"auth": ("", KEY)},
        {"json": {"Authorization": f"Bearer {KEY}"}},
    ):
        check_unauthorized(await client.request("GET", "/items", **options))


async def test_other_faults_are_not_revealed_without_a_key(client: httpx.AsyncClient) -> None:
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/items/999999", {}),
        ("GET", "/items?unknown=1", {}),
        ("PATCH", "/items/1", {"content": b"x", "headers": {"Content-Type": "text/plain"}}),
        ("PUT", "/items/1", {"json": {}, "headers": {"If-Match": "?"}}),
        ("POST", "/items", {"json": {}, "headers": {"Idempotency-Key": ""}}),
        ("DELETE", "/items/1?permanent=perhaps", {}),
    ]
    for method, address, options in requests:
        check_unauthorized(await client.request(method, address, **options))


async def test_a_request_is_refused_before_its_body_is_read(client: httpx.AsyncClient) -> None:
    read = []

    async def body() -> AsyncIterator[bytes]:
        read.append(b"{")
        yield read[-1]

    for method, address in (("POST", "/items"), ("POST", "/items/bulk"), ("PATCH", "/items/1")):
        for key, status in ((None, 401), (WRONG, 401), (KEYS[READ, DELETE], 403)):
            for length in ({}, {"Content-Length": "999999999999"}):
                headers = bearer(key) | {"Content-Type": "application/json"} | length
                answer = await client.request(method, address, content=body(), headers=headers)

                assert answer.status_code == status
    assert read == []


async def test_health_and_the_documentation_are_open(client: httpx.AsyncClient) -> None:
    for path in ("/health", "/health/live", "/health/ready", "/docs", "/openapi.json"):
        for headers in ({}, bearer(WRONG)):
            assert (await client.get(path, headers=headers)).status_code == 200


async def test_with_keys_the_document_names_the_scope_of_each_operation(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    document = (await client.get("/openapi.json")).json()
    scheme = document["components"]["securitySchemes"]["apiKey"]

    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            scope = needs(app).get((method.upper(), path))
            assert operation["security"] == ([{"apiKey": []}] if scope else [])
            assert operation["description"].endswith(f" Requires the scope `{scope}`.") == bool(
                scope
            )
            assert ({"401", "403"} <= operation["responses"].keys()) == bool(scope)


async def test_without_keys_the_document_has_the_scheme_as_an_option(settings: Settings) -> None:
    settings.api_keys = ()
    document = create_app(settings).openapi()

    assert {*document["components"]["securitySchemes"]} == {"apiKey"}
    for operation in operations(document).values():
        is_protected = "Requires the scope" in operation["description"]
        assert operation["security"] == ([{"apiKey": []}, {}] if is_protected else [])


async def test_the_printed_document_is_the_one_served_with_keys(client: httpx.AsyncClient) -> None:
    printed = items("openapi", env={"DOCS_ENABLED": "false"})

    assert json.loads(printed.stdout) == (await client.get("/openapi.json")).json()
