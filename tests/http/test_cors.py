"""CORS_ORIGINS, and the headers that protect every response in a browser."""

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
def settings(settings: Settings) -> Settings:
    """The settings of a service that the scripts of two sites may call."""
    origins = f"{SITE}, http://localhost:3000"
    return Settings.model_validate(settings.model_dump() | {"cors_origins": origins})


async def preflight(
    client: httpx.AsyncClient, origin: str, method: str = "PATCH", headers: str = "content-type"
) -> httpx.Response:
    """Send what a browser asks before it sends a request."""
    asked = {"method": method, "headers": headers}
    names = {f"Access-Control-Request-{name}": value for name, value in asked.items()}
    return await client.options("/items/1", headers={"Origin": origin, **names})


def words(header: str) -> set[str]:
    return set(header.lower().split(", "))


async def test_a_preflight_allows_a_listed_site_all_methods_and_headers(
    client: httpx.AsyncClient,
) -> None:
    headers = "authorization, content-type, idempotency-key, if-match, if-none-match, x-request-id"
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        answer = await preflight(client, SITE, method, headers)

        assert answer.status_code == 200, method
        assert answer.headers["access-control-allow-origin"] == SITE
        assert method.lower() in words(answer.headers["access-control-allow-methods"])
        assert words(headers) <= words(answer.headers["access-control-allow-headers"])
        assert "origin" in words(answer.headers["vary"])


async def test_a_listed_site_may_read_the_headers_of_the_api(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get("/items", headers={"Origin": SITE})

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
async def test_another_site_is_allowed_nothing(client: httpx.AsyncClient, origin: str) -> None:
    asked = await preflight(client, origin)
    answer = await client.get("/items", headers={"Origin": origin})

    assert asked.status_code == 400
    assert "access-control-allow-origin" not in asked.headers
    assert "access-control-allow-origin" not in answer.headers


async def test_by_default_no_site_is_allowed_anything(settings: Settings) -> None:
    settings.cors_origins = ()
    async with serving(create_app(settings)) as client:
        answer = await client.get("/items", headers={"Origin": SITE})

        assert not any(name.startswith("access-control") for name in answer.headers)
        assert (await preflight(client, SITE)).status_code == 405


async def test_every_response_has_the_headers_for_browsers(settings: Settings) -> None:
    settings.rate_limit_write, settings.allowed_hosts = "2/hour", ("test",)
    app = create_app(settings)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError

    async with serving(app) as client:
        client.headers["Origin"] = SITE
        created = await client.post("/items", json=LAMP)
        path, tag = created.headers["location"], created.headers["etag"]
        answers = [
            (201, created),
            (422, await client.post("/items", json={"name": ""})),
            (429, await client.post("/items", json=LAMP)),
            (200, await client.get(path)),
            (304, await client.get(path, headers={"If-None-Match": tag})),
            (200, await client.head(path)),
            (200, await client.get("/items/export")),
            (404, await client.get("/items/0")),
            (405, await client.put("/items")),
            (400, await client.get("/items", headers={"Host": "evil.com"})),
            (500, await client.get("/broken")),
            (200, await client.get("/docs")),
            (200, await client.get("/health/live")),
        ]
    settings.database_url = SecretStr("postgresql://127.0.0.1:1/refused")
    async with serving(create_app(settings)) as client:
        answers += [(503, await client.get("/items", headers={"Origin": SITE}))]

    for status, answer in answers:
        assert answer.status_code == status, answer.request.url
        for name, value in SECURITY.items():
            assert answer.headers.get_list(name) == [value], (status, name)
        assert answer.headers["x-request-id"], status
        # A script may read errors, too.
        assert answer.headers["access-control-allow-origin"] == SITE, status
        assert "access-control-expose-headers" in answer.headers, status


@pytest.mark.parametrize(
    "value",
    [
        "app.example.com",
        "https://app.example.com/",
        "ftp://app.example.com",
        "https://*.example.com",
        "null",
        "https://app.example.com https://other.example.com",
    ],
)
def test_a_malformed_origin_is_refused(value: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"cors_origins": value})
