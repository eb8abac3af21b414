"""ALLOWED_HOSTS: a request for another host is refused, except probes."""

import asyncio

import httpx2 as httpx
import pytest
import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from service.main import create_app
from service.settings import Settings
from tests.support.apps import address, listening, serving
from tests.support.problems import check_problem
from tests.support.waiting import TIMEOUT

HOSTS = "api.example.com, *.Example.org,[2001:db8::1],127.0.0.1"
ALLOWED = [
    "api.example.com",
    "API.Example.COM:8000",
    "shop.example.org",
    "[2001:DB8::1]:8000",
    "127.0.0.1:",
]
# The values of each Host header of a request.
OTHERS = [
    ["evil.com"],
    ["example.org"],
    ["evil-api.example.com"],
    ["evilexample.org"],
    ["*.example.org.evil.com"],
    ["2001:db8::1"],
    ["[2001:db8::1"],
    ["evil.com:api.example.com"],
    ["api.example.com:evil.com"],
    ["evil.com@api.example.com"],
    ["api.example.com, evil.com"],
    [":8000"],
    [""],
    [],
    ["api.example.com", "api.example.com"],
    ["api.example.com", "evil.com"],
]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The settings of a service with ALLOWED_HOSTS."""
    return Settings.model_validate(settings.model_dump() | {"allowed_hosts": HOSTS})


async def ask(
    client: httpx.AsyncClient, *hosts: str, path: str = "/items", method: str = "GET"
) -> httpx.Response:
    """Send a request with these Host headers and no other."""
    request = client.build_request(method, path)
    del request.headers["host"]
    headers = [*request.headers.raw, *((b"Host", host.encode()) for host in hosts)]
    request.headers = httpx.Headers(headers)
    return await client.send(request)


async def test_a_request_for_an_allowed_host_is_served(client: httpx.AsyncClient) -> None:
    for host in ALLOWED:
        assert (await ask(client, host)).status_code == 200, host


async def test_a_request_for_another_host_is_a_400(client: httpx.AsyncClient) -> None:
    for hosts in OTHERS:
        answer = await ask(client, *hosts)

        assert answer.status_code == 400, hosts
        check_problem(answer, 400, "bad-request")
        assert "evil" not in answer.text
    for method, path in (("POST", "/items"), ("GET", "/nowhere"), ("GET", "/docs"), ("GET", "/")):
        answer = await ask(client, "evil.com", path=path, method=method)
        check_problem(answer, 400, "bad-request")


async def test_probes_are_answered_for_any_host(client: httpx.AsyncClient) -> None:
    for path in ("/health", "/health/live", "/health/ready", "/metrics"):
        for hosts in (["10.0.0.7:8000"], []):
            assert (await ask(client, *hosts, path=path)).status_code == 200, path


@pytest.mark.parametrize("allowed", ["", "*"])
async def test_by_default_and_with_a_star_any_host_is_allowed(
    settings: Settings, allowed: str
) -> None:
    changed = Settings.model_validate(settings.model_dump() | {"allowed_hosts": allowed})
    async with serving(create_app(changed)) as client:
        for hosts in (["evil.com"], ["[::1]:80"], []):
            assert (await ask(client, *hosts)).status_code == 200


async def test_over_http_only_the_host_header_counts(app: FastAPI) -> None:
    good = "Host: api.example.com\r\n"
    async with listening(app) as server:
        for status, head in (
            (200, f"GET /items HTTP/1.0\r\n{good}"),
            (200, f"GET http://evil.com/items HTTP/1.1\r\n{good}"),
            (400, "GET /items HTTP/1.1\r\nHost: evil.com\r\n"),
            (400, f"GET /items HTTP/1.1\r\n{good}Host: evil.com\r\n"),
            (400, f"GET /items HTTP/1.1\r\nHost: evil.com\r\nX-Forwarded-{good}"),
            (400, "GET /items HTTP/1.1\r\n"),
            (200, "GET /health/live HTTP/1.0\r\n"),
        ):
            answer = await exchange(server, head)
            assert answer.split(" ")[1] == str(status), head


async def exchange(server: uvicorn.Server, head: str) -> str:
    """Send a request with this head; return all that comes back."""
    reader, writer = await asyncio.open_connection(*address(server))
    writer.write(f"{head}Connection: close\r\n\r\n".encode())
    async with asyncio.timeout(TIMEOUT):
        answer = await reader.read()
    writer.close()
    return answer.decode()


async def test_no_header_names_the_software(app: FastAPI) -> None:
    async with listening(app) as server:
        answer = await exchange(server, "GET /items HTTP/1.1\r\nHost: 127.0.0.1\r\n")

    head = answer.partition("\r\n\r\n")[0].lower()
    assert head.startswith("http/1.1 200 ")
    for name in ("server:", "uvicorn", "gunicorn", "python", "fastapi", "starlette"):
        assert name not in head


@pytest.mark.parametrize(
    "value",
    [
        "api.example.com:8000",
        "https://api.example.com",
        "*example.com",
        "api.example.com evil.com",
        "2001:db8::1",
    ],
)
def test_a_malformed_allowed_host_is_refused(value: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"allowed_hosts": value})
