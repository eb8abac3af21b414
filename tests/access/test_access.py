"""API keys: who may call and what they may do, and that a key is never told to anyone."""

import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from click.testing import CliRunner
from fastapi import APIRouter, FastAPI, Response
from pydantic import ValidationError

from service.cli import main
from service.keys import SCOPES, create_key, parse_keys
from service.main import create_app
from service.responses import json_response
from service.routing import StrictRoute
from service.settings import Settings, get_settings
from tests.support.apps import serving
from tests.support.commands import run
from tests.support.processes import Server, running

READ, WRITE, DELETE = SCOPES
# The scope that each operation takes.
NEEDS = {
    ("POST", "/items"): WRITE,
    ("POST", "/items/bulk"): WRITE,
    ("GET", "/items"): READ,
    ("GET", "/items/export"): READ,
    ("GET", "/items/{item_id}"): READ,
    ("PUT", "/items/{item_id}"): WRITE,
    ("PATCH", "/items/{item_id}"): WRITE,
    ("DELETE", "/items/{item_id}"): WRITE,
}
# A key for each choice of scopes.
MADE = {
    scopes: create_key("_".join(scope.partition(":")[2] for scope in scopes), scopes)
    for size in (1, 2, 3)
    for scopes in combinations(SCOPES, size)
}
KEYS = {scopes: key for scopes, (key, _) in MADE.items()}
KEY = KEYS[SCOPES]
WRONG = "items_hunter2hunter2hunter2hunter2hunter2hunter2hunt"
DIGEST = hashlib.sha256(WRONG.encode()).hexdigest()
LAMP = {"name": "Lamp", "items": [{"name": "Lamp"}]}  # fits each operation that takes a body


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The default settings, with keys."""
    settings.api_keys = parse_keys("\n".join(made for _, made in MADE.values()))
    return settings


def bearer(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key is not None else {}


def operations(app: FastAPI) -> set[tuple[str, str]]:
    """What the application serves of items: methods and paths, whatever made them."""
    return {
        (method, getattr(route, "path_format", getattr(route, "path", "")))
        for route in app.routes
        if getattr(route, "path", "").startswith("/items")
        for method in getattr(route, "methods", None) or {"ANY"}
    }


async def create(client: httpx.AsyncClient) -> Any:
    answer = await client.post("/items", json={"name": "Only"}, headers=bearer(KEY))
    assert answer.status_code == 201
    return answer.json()


async def call(
    client: httpx.AsyncClient, method: str, path: str, id_: int, key: str | None
) -> httpx.Response:
    """What would succeed, if it may."""
    body = LAMP if method in ("POST", "PUT", "PATCH") else None
    address = path.replace("{item_id}", str(id_))
    return await client.request(method, address, json=body, headers=bearer(key))


async def assert_only(client: httpx.AsyncClient, item: Any) -> None:
    """There is this item, unchanged, and no other."""
    assert (await client.get("/items", headers=bearer(KEY))).json()["items"] == [item]


def check_unauthorized(answer: httpx.Response) -> None:
    assert answer.status_code == 401, answer.text
    assert answer.headers["www-authenticate"].startswith('Bearer realm="items"')
    if answer.request.method != "HEAD":
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == "urn:items-service:unauthorized"


def check_forbidden(answer: httpx.Response, scope: str) -> None:
    assert answer.status_code == 403, answer.text
    challenge = answer.headers["www-authenticate"]
    assert challenge.startswith("Bearer ")
    assert 'error="insufficient_scope"' in challenge
    assert f'scope="{scope}"' in challenge
    if answer.request.method != "HEAD":
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == "urn:items-service:forbidden"


async def test_without_keys_everyone_may_do_everything(settings: Settings) -> None:
    settings.api_keys = Settings(_env_file=None).api_keys
    async with serving(create_app(settings)) as client:
        for headers in ({}, bearer(WRONG), {"Authorization": "?"}):
            created = await client.post("/items", json=LAMP, headers=headers)
            address = created.headers["location"]
            read = await client.get(address, headers=headers)
            removed = await client.delete(f"{address}?permanent=true", headers=headers)

            assert [a.status_code for a in (created, read, removed)] == [201, 200, 204]


def test_each_operation_on_items_is_one_whose_scope_is_known(settings: Settings) -> None:
    assert operations(create_app(settings)) == NEEDS.keys()


async def test_each_operation_refuses_whoever_has_no_key_or_lacks_its_scope(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    item = await create(client)
    for method, path in operations(app):
        scope = NEEDS[method, path]
        others = tuple(other for other in SCOPES if other != scope)
        for spelled in (method, "HEAD") if method == "GET" else (method,):
            for key in (None, WRONG):
                check_unauthorized(await call(client, spelled, path, item["id"], key))
            answer = await call(client, spelled, path, item["id"], KEYS[others])
            check_forbidden(answer, scope)

    await assert_only(client, item)


async def test_no_method_gets_past_without_a_key(app: FastAPI, client: httpx.AsyncClient) -> None:
    item = await create(client)
    for path in {path for _, path in operations(app)}:
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "COPY"):
            answer = await call(client, method, path, item["id"], None)

            assert answer.status_code in (401, 405), (method, path)

    await assert_only(client, item)


async def test_each_operation_takes_its_scope_and_no_other(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    item = await create(client)
    for method, path in operations(app):
        for spelled in (method, "HEAD") if method == "GET" else (method,):
            key = KEYS[(NEEDS[method, path],)]
            answer = await call(client, spelled, path, item["id"], key)

            assert answer.is_success, (spelled, path, answer.text)


@pytest.mark.parametrize(
    "query",
    [
        *(f"permanent={value}" for value in ("true", "True", "TRUE", "1", "yes", "on", "t", "y")),
        "permanent=false&permanent=true",
        "permanent=%74rue",
    ],
)
async def test_however_it_is_spelled_deleting_for_good_takes_one_more_scope(
    client: httpx.AsyncClient, query: str
) -> None:
    item = await create(client)
    address = f"/items/{item['id']}"
    for scopes in ((WRITE,), (READ, WRITE)):
        answer = await client.delete(f"{address}?{query}", headers=bearer(KEYS[scopes]))
        check_forbidden(answer, DELETE)
    await assert_only(client, item)

    answer = await client.delete(f"{address}?{query}", headers=bearer(KEYS[WRITE, DELETE]))
    assert answer.status_code == 204
    assert (await client.get(address, headers=bearer(KEY))).status_code == 404


async def test_deleting_for_good_is_refused_before_anything_is_told(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.delete("/items/999999?permanent=true", headers=bearer(KEYS[(WRITE,)]))

    check_forbidden(answer, DELETE)


async def test_an_operation_that_names_no_scope_is_for_nobody(settings: Settings) -> None:
    app = create_app(settings)
    router = APIRouter(route_class=StrictRoute)

    @router.get("/secret")
    async def secret() -> Response:
        return json_response("secret")

    app.router.routes.extend(router.routes)
    async with serving(app) as client:
        answers = [await client.get("/secret", headers=bearer(key)) for key in (None, WRONG, KEY)]

    assert [answer.status_code for answer in answers] == [401, 401, 403]


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        " ",
        "Bearer",
        "Bearer ",
        "Bearer  ",
        "{key}",
        "Basic {key}",
        "Token {key}",
        "Bearer{key}",
        "Bearer:{key}",
        "Bearer,{key}",
        "Bearer={key}",
        "Basic x, Bearer {key}",
        "Bearer {wrong}",
        "Bearer {part_of_key}",
        "Bearer {key}x",
        "Bearer {key_in_other_case}",
        "Bearer {key} {key}",
        "Bearer {key},",
        'Bearer "{key}"',
        "Bearer Bearer {key}",
        "Bearer {name}",
        "Bearer {digest}",
        "Bearer {entry}",
        "Bearer \u00e9\u00ff\u0080",
        "Bearer {key}\u00ff",
        "B\u00e9arer {key}",
        "\u00ff",
        "Bearer {very_long}",
    ],
)
async def test_a_request_without_a_known_key_is_a_401_that_repeats_nothing(
    client: httpx.AsyncClient, header: str | None
) -> None:
    headers = []
    if header is not None:
        name, digest, _ = MADE[SCOPES][1].split(":", 2)
        value = header.format(
            key=KEY,
            part_of_key=KEY[:-1],
            key_in_other_case=KEY.swapcase(),
            name=name,
            digest=digest,
            entry=MADE[SCOPES][1],
            wrong=WRONG,
            very_long="x" * 1_000_000,
        )
        headers = [(b"Authorization", value.encode("latin-1"))]
    for answer in (
        await client.get("/items", headers=headers),
        await client.put("/items/1", json=LAMP, headers=headers),
    ):
        check_unauthorized(answer)
        assert KEY not in answer.text
        assert KEY not in str(answer.headers)


async def test_a_key_in_another_place_is_no_key(client: httpx.AsyncClient) -> None:
    for asked in (
        client.get("/items", params={"access_token": KEY}),
        client.get("/items", headers={"X-API-Key": KEY, "Cookie": f"Authorization=Bearer {KEY}"}),
        client.get("/items", headers={"Proxy-Authorization": f"Bearer {KEY}"}),
        client.get("/items", auth=("", KEY)),
        client.request("GET", "/items", json={"Authorization": f"Bearer {KEY}"}),
    ):
        check_unauthorized(await asked)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR", "Bearer  "])
async def test_the_scheme_may_be_written_in_either_case(
    client: httpx.AsyncClient, scheme: str
) -> None:
    answer = await client.get("/items", headers={"Authorization": f"{scheme} {KEY}"})

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "address", "options"),
    [
        ("GET", "/items/999999", {}),
        ("GET", "/items/none", {}),
        ("GET", "/items/1", {"headers": {"If-None-Match": "*"}}),
        ("GET", "/items?per_page=0", {}),
        ("GET", "/items?unknown=1", {}),
        ("GET", "/items/export", {"headers": {"Accept": "image/png"}}),
        ("PATCH", "/items/1", {"content": b"x", "headers": {"Content-Type": "text/plain"}}),
        ("PUT", "/items/1", {"json": {}, "headers": {"If-Match": "?"}}),
        ("POST", "/items", {"json": {}, "headers": {"Idempotency-Key": ""}}),
        ("DELETE", "/items/1?permanent=perhaps", {}),
    ],
)
async def test_what_else_is_wrong_is_not_told_without_a_key(
    client: httpx.AsyncClient, method: str, address: str, options: dict[str, Any]
) -> None:
    check_unauthorized(await client.request(method, address, **options))


@pytest.mark.parametrize(
    ("method", "address"),
    [("POST", "/items"), ("POST", "/items/bulk"), ("PUT", "/items/1"), ("PATCH", "/items/1")],
)
@pytest.mark.parametrize(
    ("key", "status"),
    [(None, 401), (WRONG, 401), (KEYS[READ, DELETE], 403)],
    ids=["no key", "unknown key", "no scope"],
)
async def test_a_request_that_may_not_is_refused_before_its_body_is_read(
    client: httpx.AsyncClient, method: str, address: str, key: str | None, status: int
) -> None:
    read = []

    async def body() -> AsyncIterator[bytes]:
        for _ in range(100):
            read.append(b"{" * 1_000_000)
            yield read[-1]

    headers = bearer(key) | {"Content-Type": "application/json"}
    streamed = await client.request(method, address, content=body(), headers=headers)
    headers |= {"Content-Length": "999999999999"}
    announced = await client.request(method, address, content=body(), headers=headers)

    assert (streamed.status_code, announced.status_code) == (status, status)
    assert read == []


@pytest.mark.parametrize("headers", [{}, bearer(WRONG), {"Authorization": "?"}], ids=str)
async def test_health_and_the_documentation_are_open(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    for path in ("/health", "/health/live", "/health/ready", "/docs", "/openapi.json"):
        assert (await client.get(path, headers=headers)).status_code == 200


# --- Limits


@asynccontextmanager
async def limited(settings: Settings, **limits: str) -> AsyncIterator[Callable[..., Any]]:
    """The service with these limits. Yields what answers with the status of a request."""
    app = create_app(settings.model_copy(update=limits))

    async def ask(key: str | None, address: str = "10.0.0.1", method: str = "GET") -> int:
        transport = httpx.ASGITransport(app, client=(address, 50_000))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.request(method, "/items", headers=bearer(key))).status_code

    async with app.router.lifespan_context(app):
        yield ask


async def test_a_limit_counts_the_requests_of_a_key_from_wherever(settings: Settings) -> None:
    async with limited(settings, rate_limit_read="2/hour") as ask:
        statuses = [await ask(KEY, f"10.0.0.{n}") for n in range(3)]

        assert statuses == [200, 200, 429]
        assert await ask(KEY, method="HEAD") == 429
        # At the address of the first there are others.
        assert [await ask(KEYS[(READ,)], "10.0.0.0") for _ in range(3)] == [200, 200, 429]


async def test_keys_of_one_name_count_together(settings: Settings) -> None:
    (old, one), (new, other) = (create_key("shop", [READ]) for _ in range(2))
    settings.api_keys = parse_keys(f"{one} {other}")
    async with limited(settings, rate_limit_read="2/hour") as ask:
        assert [await ask(key) for key in (old, new, old, new)] == [200, 200, 429, 429]


async def test_who_has_no_known_key_is_counted_by_address(settings: Settings) -> None:
    async with limited(settings, rate_limit_read="3/hour") as ask:
        guesses = [await ask(key) for key in (WRONG, None, WRONG + "x", WRONG, None)]

        assert guesses == [401, 401, 401, 429, 429]
        # Those who have one are not to suffer.
        assert await ask(KEY) == 200
        assert await ask(WRONG, "10.0.0.2") == 401


async def test_a_request_that_lacks_the_scope_counts_too(settings: Settings) -> None:
    async with limited(settings, rate_limit_write="2/hour") as ask:
        key = KEYS[READ, DELETE]

        assert [await ask(key, method="POST") for _ in range(3)] == [403, 403, 429]
        assert await ask(key) == 200


async def test_a_key_that_is_named_like_an_address_does_not_count_with_it(
    settings: Settings,
) -> None:
    key, made = create_key("10.0.0.1", [READ])
    settings.api_keys = parse_keys(made)
    async with limited(settings, rate_limit_read="2/hour") as ask:
        assert [await ask(WRONG, "10.0.0.1") for _ in range(3)] == [401, 401, 429]
        assert await ask(key, "10.0.0.2") == 200


# --- The document


async def test_with_keys_the_document_names_the_scope_of_each_operation(
    client: httpx.AsyncClient,
) -> None:
    document = (await client.get("/openapi.json")).json()
    declared = {
        (method.upper(), path): operation.get("security")
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    scheme = document["components"]["securitySchemes"]["apiKey"]

    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for operation, security in declared.items():
        assert security == ([{"apiKey": [NEEDS[operation]]}] if operation in NEEDS else None)
    for method, path in NEEDS:
        assert {"401", "403"} <= document["paths"][path][method.lower()]["responses"].keys()


async def test_without_keys_the_document_has_no_security(settings: Settings) -> None:
    settings.api_keys = ()
    async with serving(create_app(settings)) as client:
        document = (await client.get("/openapi.json")).json()

    assert "securitySchemes" not in document["components"]
    for methods in document["paths"].values():
        for operation in methods.values():
            assert "security" not in operation
    assert "apiKey" not in json.dumps(document)


async def test_the_command_prints_the_document_with_keys(client: httpx.AsyncClient) -> None:
    ran = run("items", "openapi", env={"DOCS_ENABLED": "false"})

    assert json.loads(ran.stdout) == (await client.get("/openapi.json")).json()


# --- API_KEYS


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], Settings]]:
    """What starts with this API_KEYS, and nothing else set."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)

    def start_with(api_keys: str) -> Settings:
        monkeypatch.setenv("API_KEYS", api_keys)
        get_settings.cache_clear()
        return get_settings()

    yield start_with
    get_settings.cache_clear()


def entry(name: str = "shop", digest: str = DIGEST, scopes: str = READ) -> str:
    return f"{name}:{digest}:{scopes}"


@pytest.mark.parametrize("between", [" ", "\n", "\r\n", "\t", ";", " ; ", "\n\n", ";;\n;"])
def test_entries_stand_apart_by_spaces_semicolons_or_new_lines(
    start: Callable[[str], Settings], between: str
) -> None:
    entries = [entry("one"), entry("two", scopes=f"{READ},{WRITE}"), entry("3-_.", "0" * 64)]
    settings = start(f"{between}{between.join(entries)}{between}")

    assert [(key.name, key.digest, sorted(key.scopes)) for key in settings.api_keys] == [
        ("one", DIGEST, [READ]),
        ("two", DIGEST, [READ, WRITE]),
        ("3-_.", "0" * 64, [READ]),
    ]


@pytest.mark.parametrize(
    "api_keys",
    [
        "hunter2",
        "hunter2:",
        "hunter2:hunter2",
        "hunter2::items:read",
        f"hunter2:{WRONG}:items:read",
        f"{DIGEST}:items:read",
        entry("", DIGEST),
        entry("hunter/2"),
        entry("hunter\u00e9"),
        entry('"hunter2'),
        entry("hunter2" * 10),
        entry("hunter2", DIGEST[:-1]),
        entry("hunter2", f"{DIGEST}0"),
        entry("hunter2", DIGEST.upper()),
        entry("hunter2", f"{DIGEST[:-1]}g"),
        entry("hunter2", f"{DIGEST[:-1]}\u0663"),  # a digit, but of Arabic
        f"hunter2:{DIGEST}",
        entry("hunter2", scopes=""),
        entry("hunter2", scopes="items"),
        entry("hunter2", scopes="hunter2"),
        entry("hunter2", scopes="items:*"),
        entry("hunter2", scopes="ITEMS:READ"),
        entry("hunter2", scopes="items:read,"),
        entry("hunter2", scopes=",items:read"),
        entry("hunter2", scopes="items:read,,items:write"),
        entry("hunter2", scopes="items:read, items:write"),
        entry("hunter2", scopes="items:read items:write"),
        entry("hunter2", scopes="items:read:items:write"),
        f"{entry('hunter2')},{entry('hunter3')}",
        f"{entry()} hunter2",
        f"hunter2;{entry()}",
        json.dumps([entry("hunter2")]),
    ],
    ids=lambda api_keys: api_keys.replace(DIGEST, "DIGEST")[:60].encode("unicode_escape"),
)
def test_a_malformed_entry_stops_the_start_with_a_line_that_does_not_show_it(
    start: Callable[[str], Settings], api_keys: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        start(api_keys)
    title, line = str(stopped.value).splitlines()

    assert title == "The configuration is wrong:"
    assert re.fullmatch(r"API_KEYS: entry \d+ must \S.*", line)
    assert "hunter" not in line
    assert DIGEST[:8] not in line.lower()


def test_the_line_says_which_entry_is_wrong(start: Callable[[str], Settings]) -> None:
    with pytest.raises(SystemExit, match="API_KEYS: entry 3 "):
        start(f"\n{entry('one')};\n{entry('two')}\n\n{entry('three', scopes='none')}\n")


def test_not_even_the_error_itself_shows_an_entry() -> None:
    with pytest.raises(ValidationError) as wrong:
        Settings.model_validate({"api_keys": entry(scopes="hunter2")})

    assert not re.search(f"hunter2|{DIGEST}", f"{wrong.value!s} {wrong.value!r}")


def test_the_settings_do_not_show_a_digest() -> None:
    assert DIGEST not in f"{Settings(_env_file=None, api_keys=entry())!r}"


async def test_a_key_can_be_replaced_by_one_of_the_same_name(settings: Settings) -> None:
    (old, one), (new, other) = create_key("shop", [READ]), create_key("shop", [READ, WRITE])
    settings.api_keys = parse_keys(f"{one};{other}")
    async with serving(create_app(settings)) as client:
        assert [
            (await call(client, "GET", "/items", 1, key)).status_code for key in (old, new)
        ] == [
            200,
            200,
        ]
        # Each has its own scopes.
        check_forbidden(await call(client, "POST", "/items", 1, old), WRITE)
        assert (await call(client, "POST", "/items", 1, new)).status_code == 201


def test_keys_come_from_a_secret_file_too(tmp_path: Path) -> None:
    (tmp_path / "api_keys").write_text(f"{entry('one')}\n{entry('two')}\n")

    settings = Settings(_env_file=None, _secrets_dir=tmp_path)

    assert [key.name for key in settings.api_keys] == ["one", "two"]


def test_keys_come_from_the_file_env_too(start: Callable[[str], Settings]) -> None:
    Path(".env").write_text(f'API_KEYS="{entry("one")}\n{entry("two")}"\n')

    assert [key.name for key in start("").api_keys] == ["one", "two"]


# --- The command, and a service with the key that it made


@dataclass(slots=True)
class Made:
    """What `items key create` prints."""

    key: str
    entry: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.key.encode()).hexdigest()


def make(name: str, *scopes: str) -> Made:
    options = [f"--scope={scope}" for scope in scopes]
    ran = run("items", "key", "create", name, *options, env={})
    told = re.fullmatch(r"The key,[^:]*: (\S+)\nThe entry[^:]*: (\S+)\n", ran.stdout)

    assert told
    assert ran.stderr == ""
    return Made(*told.groups())


@pytest.fixture(scope="module")
def shop() -> Made:
    return make("shop", WRITE, READ)


@pytest.fixture(scope="module")
def server(database_url: str, shop: Made) -> Iterator[Server]:
    env = {
        "DATABASE_URL": database_url,
        "API_KEYS": shop.entry,
        "WEB_CONCURRENCY": "1",
        "LOG_LEVEL": "DEBUG",
    }
    with running("serve", env=env) as server:
        yield server


def test_a_key_is_shown_once_and_its_entry_has_the_digest_alone(shop: Made) -> None:
    assert shop.entry == f"shop:{shop.digest}:{WRITE},{READ}"
    assert re.fullmatch(r"items_[A-Za-z0-9_-]{43}", shop.key)


def test_each_call_makes_another_key(shop: Made) -> None:
    again = make("shop", WRITE, READ)

    assert again.key != shop.key
    assert again.entry != shop.entry


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a b",
        " shop",
        "shop ",
        "\nshop",
        "shop;",
        ";shop",
        "a:b",
        "a,b",
        "a/b",
        "\u00e9",
        "x" * 65,
        # An entry of its own, to pass for one that the command made.
        f"{entry('other', scopes=DELETE)} shop",
    ],
    ids=lambda name: repr(name[:20]).encode("unicode_escape"),
)
def test_a_name_that_does_not_fit_is_an_error_and_makes_no_key(name: str) -> None:
    result = CliRunner().invoke(main, ["key", "create", "--scope", READ, "--", name])

    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)
    assert "Error: " in result.stderr
    assert "name" in result.stderr.lower()
    assert result.stdout == ""


@pytest.mark.parametrize(
    "scopes", [[], [""], ["read"], ["items:admin"], ["items:read,items:write"]]
)
def test_an_unknown_scope_is_an_error_that_names_those_there_are(scopes: list[str]) -> None:
    options = [f"--scope={scope}" for scope in scopes]
    result = CliRunner().invoke(main, ["key", "create", "shop", *options])

    assert result.exit_code == 2
    assert "--scope" in result.stderr
    assert all(scope in result.stderr for scope in SCOPES)
    assert result.stdout == ""


def test_the_key_lets_its_bearer_in_and_the_log_knows_them_by_name(
    server: Server, shop: Made
) -> None:
    with httpx.Client(base_url=server.url, headers=bearer(shop.key)) as client:
        created = client.post("/items", json=LAMP)
        address = created.headers["location"]
        answers = [
            created,
            client.get(address),
            client.head(address),
            client.put(address, json=LAMP),
            client.get("/items/999999"),
            client.delete(f"{address}?permanent=true"),
        ]
        open_ = client.get("/health/live")

    assert [answer.status_code for answer in answers] == [201, 200, 200, 200, 404, 403]
    for answer in answers:
        assert server.line_of(answer)["key"] == "shop"
    assert server.line_of(open_)["key"] is None


def test_the_log_names_nobody_who_has_no_known_key(server: Server, shop: Made) -> None:
    for headers in ({}, bearer(WRONG), {"Authorization": f"Basic {shop.key}"}):
        answer = httpx.get(f"{server.url}/items", headers=headers)
        line = server.line_of(answer)

        assert (line["status"], line["key"]) == (401, None)


def test_neither_a_key_nor_its_digest_is_ever_written(server: Server, shop: Made) -> None:
    url = f"{server.url}/items"
    for answer in (
        httpx.get(url, headers=bearer(shop.key)),
        httpx.get(url, headers=bearer(WRONG)),
        httpx.get(url, headers={"Authorization": f"Basic {shop.key}"}),
        httpx.get(url, headers={"Authorization": shop.key}),
        httpx.get(url, params={"access_token": shop.key}),
        httpx.get(f"{url}/{shop.key}", headers=bearer(shop.key)),
        httpx.get(f"{server.url}/{shop.key}"),
        httpx.post(url, content=shop.key, headers=bearer(shop.key)),
    ):
        server.line_of(answer)

    written = server.stdout() + server.stderr()
    for secret in (shop.key, shop.digest, WRONG, DIGEST):
        assert secret not in written
