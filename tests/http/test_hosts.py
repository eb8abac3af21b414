"""What browsers are told and kept from: the service's names, other web sites, and headers."""

import socket
from typing import Any

import httpx2 as httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr, ValidationError

from service.main import create_app
from service.settings import Settings
from tests.support.apps import serving
from tests.support.problems import check_problem
from tests.support.processes import running
from tests.support.waiting import TIMEOUT

HOSTS = "api.example.com, *.Example.org,[2001:db8::1],127.0.0.1"
SITE = "https://app.example.com"
FOREIGN = "https://evil.example.com"
SECURITY = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}


async def ask(
    settings: Settings, *hosts: str, path: str = "/items", method: str = "GET"
) -> httpx.Response:
    """Send a request with these Host headers, and no other."""
    async with serving(create_app(settings)) as client:
        request = client.build_request(method, path)
        del request.headers["host"]
        headers = [*request.headers.raw, *((b"Host", host.encode()) for host in hosts)]
        request.headers = httpx.Headers(headers)
        return await client.send(request)


@pytest.fixture
def named(settings: Settings) -> Settings:
    """The settings of a service that goes by a few names."""
    return Settings.model_validate(settings.model_dump() | {"allowed_hosts": HOSTS})


@pytest.mark.parametrize(
    "host",
    [
        "api.example.com",
        "api.example.com:8000",
        "API.Example.COM",
        "shop.example.org",
        "a.b.example.org:443",
        "[2001:db8::1]",
        "[2001:DB8::1]:8000",
        "127.0.0.1:8000",
    ],
)
async def test_the_service_answers_to_its_names(named: Settings, host: str) -> None:
    assert (await ask(named, host)).status_code == 200


@pytest.mark.parametrize(
    "hosts",
    [
        ["example.com"],
        ["evil.com"],
        ["api.example.com.evil.com"],
        ["evil-api.example.com"],
        ["evilexample.org"],
        ["example.org"],
        [".example.org.evil.com"],
        ["127.0.0.2"],
        ["[2001:db8::2]"],
        ["[2001:db8::1"],
        ["2001:db8::1"],
        ["evil.com:api.example.com"],
        ["evil.com@api.example.com"],
        ["evil.com#.example.org"],
        ["api.example.com, evil.com"],
        ["localhost"],
        [":8000"],
        ["*"],
        ["*.example.org.evil.com"],
        [""],
        [],
        ["api.example.com", "api.example.com"],
        ["api.example.com", "evil.com"],
        ["evil.com", "api.example.com"],
    ],
    ids=str,
)
async def test_another_name_is_refused_with_a_problem(named: Settings, hosts: list[str]) -> None:
    answer = await ask(named, *hosts)

    check_problem(answer, 400, "bad-request")
    assert "evil" not in answer.text
    assert SECURITY.items() <= dict(answer.headers).items()


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/items"), ("GET", "/nowhere"), ("GET", "/docs"), ("GET", "/")]
)
async def test_another_name_is_refused_whatever_is_asked_for(
    named: Settings, method: str, path: str
) -> None:
    check_problem(await ask(named, "evil.com", path=path, method=method), 400, "bad-request")


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/metrics"])
async def test_probes_are_answered_by_any_name(named: Settings, path: str) -> None:
    for hosts in (["10.0.0.7:8000"], ["localhost"], []):
        assert (await ask(named, *hosts, path=path)).status_code == 200


async def test_by_default_and_with_a_star_any_name_will_do(settings: Settings) -> None:
    everyone = Settings.model_validate(settings.model_dump() | {"allowed_hosts": "*"})
    for changed in (settings, everyone):
        for hosts in (["evil.com"], ["[::1]:80"], []):
            assert (await ask(changed, *hosts)).status_code == 200


def test_over_http_a_request_without_one_good_name_is_refused(database_url: str) -> None:
    environment = {
        "DATABASE_URL": database_url,
        "WEB_CONCURRENCY": "1",
        "ALLOWED_HOSTS": "api.example.com",
        "CORS_ORIGINS": SITE,
    }

    def statuses(*heads: str) -> list[str]:
        return [tell(server.url, head).split(" ")[1] for head in heads]

    with running("serve", env=environment) as server:
        good = "Host: api.example.com\r\n"
        answer = tell(server.url, f"GET /items HTTP/1.1\r\n{good}Origin: {SITE}\r\n")

        assert statuses(
            f"GET /items HTTP/1.1\r\n{good}",
            f"GET /items HTTP/1.0\r\n{good}",
            f"GET http://evil.com/items HTTP/1.1\r\n{good}",
            "GET /items HTTP/1.1\r\nHost: evil.com\r\n",
            f"GET /items HTTP/1.1\r\n{good}Host: evil.com\r\n",
            f"GET /items HTTP/1.1\r\nHost: evil.com\r\nX-Forwarded-{good}",
            "GET /items HTTP/1.1\r\n",
            "GET /items HTTP/1.0\r\n",
            "GET /health/live HTTP/1.0\r\n",
        ) == ["200", "200", "200", "400", "400", "400", "400", "400", "200"]

    # Nor does it say what it is made of.
    head = answer.partition("\r\n\r\n")[0].lower()
    assert "\r\nserver:" not in head
    for name in ("uvicorn", "gunicorn", "python", "fastapi", "starlette"):
        assert name not in head
    assert "\r\nx-content-type-options: nosniff" in head
    assert f"\r\naccess-control-allow-origin: {SITE}" in head


def tell(url: str, head: str) -> str:
    """Send this head as it is. Answers with all that comes back."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 0), timeout=TIMEOUT) as client:
        client.sendall(f"{head}Connection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: client.recv(65_536), b"")).decode()


@pytest.mark.parametrize(
    "changes",
    [
        {"allowed_hosts": "api.example.com:8000"},
        {"allowed_hosts": "https://api.example.com"},
        {"allowed_hosts": "api.example.com/path"},
        {"allowed_hosts": "api.*.com"},
        {"allowed_hosts": "*example.com"},
        {"allowed_hosts": "api.example.com evil.com"},
        {"allowed_hosts": "2001:db8::1"},
        {"cors_origins": "app.example.com"},
        {"cors_origins": "https://app.example.com/"},
        {"cors_origins": "https://app.example.com/path"},
        {"cors_origins": "ftp://app.example.com"},
        {"cors_origins": "https://*.example.com"},
        {"cors_origins": "https://"},
        {"cors_origins": "null"},
        {"cors_origins": "https://app.example.com https://other.example.com"},
    ],
    ids=str,
)
def test_a_wrong_setting_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(changes)


@pytest.fixture
def open_to_a_site(settings: Settings) -> Settings:
    """The settings of a service that a web site may call."""
    settings.cors_origins = (SITE, "http://localhost:3000")
    return settings


def preflight(origin: str, method: str = "PATCH", headers: str = "content-type") -> dict[str, Any]:
    """The arguments of what a browser asks before it sends a request."""
    return {
        "method": "OPTIONS",
        "url": "/items/1",
        "headers": {
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": headers,
        },
    }


def allowed(answer: httpx.Response) -> dict[str, str]:
    """What an answer allows other web sites."""
    return {name: value for name, value in answer.headers.items() if name.startswith("access-c")}


async def test_a_preflight_tells_a_site_what_it_may_send(open_to_a_site: Settings) -> None:
    wanted = "authorization, content-type, idempotency-key, if-match, if-none-match, x-request-id"
    async with serving(create_app(open_to_a_site)) as client:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            answer = await client.request(**preflight(SITE, method, wanted))

            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == SITE
            assert method in answer.headers["access-control-allow-methods"].split(", ")
            allowed_headers = answer.headers["access-control-allow-headers"].lower().split(", ")
            assert set(wanted.split(", ")) <= set(allowed_headers)
            assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize(
    "asked",
    [
        preflight(FOREIGN),
        preflight("http://app.example.com"),
        preflight(f"{SITE}.evil.com"),
        preflight(f"{SITE}:444"),
        preflight("null"),
    ],
    ids=lambda asked: asked["headers"]["Origin"],
)
async def test_a_preflight_of_a_foreign_site_gets_nothing(
    open_to_a_site: Settings, asked: dict[str, Any]
) -> None:
    async with serving(create_app(open_to_a_site)) as client:
        answer = await client.request(**asked)

    assert answer.status_code == 400
    assert "access-control-allow-origin" not in answer.headers


async def test_a_site_may_read_the_headers_that_matter(open_to_a_site: Settings) -> None:
    async with serving(create_app(open_to_a_site)) as client:
        answer = await client.get("/items", headers={"Origin": SITE})

    assert answer.headers["access-control-allow-origin"] == SITE
    assert "Origin" in answer.headers["vary"]
    exposed = set(answer.headers["access-control-expose-headers"].lower().split(", "))
    assert exposed >= {
        *("etag", "link", "location", "retry-after", "x-request-id", "idempotency-replayed"),
        *("ratelimit", "ratelimit-policy"),
    }
    assert "access-control-allow-credentials" not in answer.headers


async def test_a_foreign_site_gets_nothing(open_to_a_site: Settings) -> None:
    async with serving(create_app(open_to_a_site)) as client:
        answer = await client.get("/items", headers={"Origin": FOREIGN})

    assert "access-control-allow-origin" not in answer.headers


async def test_by_default_no_site_gets_anything(client: httpx.AsyncClient) -> None:
    assert allowed(await client.get("/items", headers={"Origin": SITE})) == {}
    assert (await client.request(**preflight(SITE))).status_code == 405


def every_answer(settings: Settings) -> dict[str, httpx.Response]:
    """An answer of every kind, to a web site's script."""
    changes = {"max_body_bytes": 100, "rate_limit_write": "3/hour", "allowed_hosts": "testserver"}
    app = create_app(Settings.model_validate(settings.model_dump() | changes))

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError

    answers: dict[str, httpx.Response] = {}
    with TestClient(app, headers={"Origin": SITE}) as client:
        created = client.post("/items", json={"name": "Lamp"})
        path, tag = created.headers["location"], created.headers["etag"]
        answers |= {
            "201": created,
            "422": client.post("/items", json={"name": ""}),
            "413": client.post("/items", json={"name": "x" * 200}),
            "429": client.post("/items", json={"name": "Lamp"}),
            "200": client.get(path),
            "304": client.get(path, headers={"If-None-Match": tag}),
            "HEAD": client.head(path),
            "list": client.get("/items"),
            "export": client.get("/items/export"),
            "406": client.get("/items/export", headers={"Accept": "image/png"}),
            "404": client.get("/items/0"),
            "404 of a path": client.get("/nowhere"),
            "405": client.put("/items"),
            "400": client.get("/items", headers={"Host": "evil.com"}),
            "500": client.get("/broken"),
            "docs": client.get("/docs"),
            "openapi": client.get("/openapi.json"),
            "static": client.get("/static-offline-docs/favicon.png"),
            "live": client.get("/health/live"),
            "metrics": client.get("/metrics"),
        }
    lost = {"database_url": SecretStr("postgresql://127.0.0.1:1/nothing"), "request_timeout": 5}
    with TestClient(create_app(settings.model_copy(update=lost))) as client:
        client.headers["Origin"] = SITE
        answers["503"] = client.get("/items")
    return answers


def test_every_answer_has_the_headers(open_to_a_site: Settings) -> None:
    answers = every_answer(open_to_a_site)

    for kind, answer in answers.items():
        if kind[0].isdigit():
            assert answer.status_code == int(kind[:3]), kind
        else:
            assert answer.status_code == 200, kind
        assert SECURITY.items() <= dict(answer.headers).items(), kind
        for name in SECURITY:
            assert len(answer.headers.get_list(name)) == 1, (kind, name)
        assert answer.headers["x-request-id"], kind
        assert "server" not in answer.headers, kind
        # A script can read what went wrong, too.
        assert answer.headers["access-control-allow-origin"] == SITE, kind
        assert "access-control-expose-headers" in answer.headers, kind
