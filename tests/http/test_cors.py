"""CORS_ORIGINS, and the headers that protect every response in a browser."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2 as httpx
import pytest
from pydantic import SecretStr, ValidationError

from service.main import create_app
from service.settings import Settings
from tests.support.apps import serving
from tests.support.samples import LAMP

SITE = "https://app.example.com"
SECURITY = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}


@pytest.fixture
def cors_settings(settings: Settings) -> Settings:
    """The settings of a service that the scripts of two sites may call."""
    settings.cors_origins = (SITE, "http://localhost:3000")
    return settings


@pytest.fixture
async def cors_client(cors_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of that service."""
    async with serving(create_app(cors_settings)) as client:
        yield client


async def preflight(
    client: httpx.AsyncClient, origin: str, method: str = "PATCH", headers: str = "content-type"
) -> httpx.Response:
    """Send what a browser asks before it sends a request."""
    return await client.options(
        "/items/1",
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": headers,
        },
    )


def words(header: str) -> set[str]:
    return set(header.lower().split(", "))


async def test_a_preflight_allows_a_listed_site_all_methods_and_headers(
    cors_client: httpx.AsyncClient,
) -> None:
    headers = "authorization, content-type, idempotency-key, if-match, if-none-match, x-request-id"
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        answer = await preflight(cors_client, SITE, method, headers)

        assert answer.status_code == 200, method
        assert answer.headers["access-control-allow-origin"] == SITE
        assert method.lower() in words(answer.headers["access-control-allow-methods"])
        assert words(headers) <= words(answer.headers["access-control-allow-headers"])
        assert "origin" in words(answer.headers["vary"])


async def test_a_listed_site_may_read_the_headers_of_the_api(
    cors_client: httpx.AsyncClient,
) -> None:
    answer = await cors_client.get("/items", headers={"Origin": SITE})

    assert answer.headers["access-control-allow-origin"] == SITE
    assert "origin" in words(answer.headers["vary"])
    assert words(answer.headers["access-control-expose-headers"]) >= {
        *("etag", "link", "location", "retry-after", "x-request-id", "idempotency-replayed"),
        *("ratelimit", "ratelimit-policy"),
    }
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example.com", "http://app.example.com", f"{SITE}.evil.com", f"{SITE}:444"],
)
async def test_another_site_is_allowed_nothing(cors_client: httpx.AsyncClient, origin: str) -> None:
    asked = await preflight(cors_client, origin)
    answer = await cors_client.get("/items", headers={"Origin": origin})

    assert asked.status_code == 400
    assert "access-control-allow-origin" not in asked.headers
    assert "access-control-allow-origin" not in answer.headers


async def test_by_default_no_site_is_allowed_anything(client: httpx.AsyncClient) -> None:
    answer = await client.get("/items", headers={"Origin": SITE})

    assert not any(name.startswith("access-control") for name in answer.headers)
    assert (await preflight(client, SITE)).status_code == 405


async def test_every_response_has_the_headers_for_browsers(cors_settings: Settings) -> None:
    for status, answer in [
        *await responses(cors_settings),
        (503, await response_without_database(cors_settings)),
    ]:
        assert answer.status_code == status, answer.request.url
        for name, value in SECURITY.items():
            assert answer.headers.get_list(name) == [value], (status, name)
        assert answer.headers["x-request-id"], status
        # A script may read errors, too.
        assert answer.headers["access-control-allow-origin"] == SITE, status
        assert "access-control-expose-headers" in answer.headers, status


async def responses(settings: Settings) -> list[tuple[int, httpx.Response]]:
    """Return a response of each kind that a site's script can get, and its expected status."""
    changes: dict[str, Any] = {
        "max_body_bytes": 100,
        "rate_limit_write": "3/hour",
        "allowed_hosts": "test",
    }
    app = create_app(Settings.model_validate(settings.model_dump() | changes))

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError

    async with serving(app) as client:
        client.headers["Origin"] = SITE
        created = await client.post("/items", json=LAMP)
        path, tag = created.headers["location"], created.headers["etag"]
        return [
            (201, created),
            (422, await client.post("/items", json={"name": ""})),
            (413, await client.post("/items", json={"name": "x" * 200})),
            (429, await client.post("/items", json=LAMP)),
            (200, await client.get(path)),
            (304, await client.get(path, headers={"If-None-Match": tag})),
            (200, await client.head(path)),
            (200, await client.get("/items/export")),
            (406, await client.get("/items/export", headers={"Accept": "image/png"})),
            (404, await client.get("/nowhere")),
            (405, await client.put("/items")),
            (400, await client.get("/items", headers={"Host": "evil.com"})),
            (500, await client.get("/broken")),
            (200, await client.get("/docs")),
            (200, await client.get("/static-offline-docs/favicon.png")),
            (200, await client.get("/health/live")),
            (200, await client.get("/metrics")),
        ]


async def response_without_database(settings: Settings) -> httpx.Response:
    """Return the response of a service whose database refuses connections."""
    settings.database_url = SecretStr("postgresql://127.0.0.1:1/nothing")
    async with serving(create_app(settings)) as client:
        return await client.get("/items", headers={"Origin": SITE})


@pytest.mark.parametrize(
    "value",
    [
        "app.example.com",
        "https://app.example.com/",
        "ftp://app.example.com",
        "https://*.example.com",
        "https://",
        "null",
        "https://app.example.com https://other.example.com",
    ],
)
def test_a_malformed_origin_is_refused(value: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"cors_origins": value})
