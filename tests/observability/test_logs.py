"""The log: every logger writes JSON lines, a request is one line, and content is left out."""

import json
import logging
import re
from typing import Any

import httpx2 as httpx
import pytest

from service.observability.logs import configure_logging
from service.settings import Settings
from tests.support.commands import items
from tests.support.logs import logged_client, reading_log
from tests.support.processes import script

SECRET = "hunter2"


@pytest.fixture
def unserializable_url(own_database_url: str) -> str:
    """A database with items that the service cannot put into JSON."""
    script(own_database_url, "ALTER TABLE items DROP version, ADD version bytea DEFAULT 'v'")
    return own_database_url


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/items?q=x", "/items", 200),
        ("HEAD", "/items", "/items", 200),
        ("GET", "/items/0", "/items/{item_id}", 404),
        ("PUT", "/items/1", "/items/{item_id}", 422),
        ("GET", "/nowhere", None, 404),
    ],
)
async def test_a_request_is_one_line(
    settings: Settings, method: str, path: str, route: str | None, status: int
) -> None:
    async with logged_client(settings) as (client, log):
        answer = await client.request(method, path)
        line = await log.line_of(answer)

    assert answer.status_code == status
    assert line.pop("duration_ms") > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", line.pop("timestamp"))
    assert line == {
        "event": "request",
        "method": method,
        "route": route,
        "status": status,
        "bytes": len(answer.content),
        "client": "127.0.0.1",
        "key": None,
        "request_id": answer.headers["x-request-id"],
        "level": "info",
    }


@pytest.mark.parametrize("given", ["abc-123", "x" * 128, "Root=1:a/b+c@d.e_f"])
async def test_a_well_formed_request_id_is_kept(settings: Settings, given: str) -> None:
    async with logged_client(settings) as (client, log):
        answer = await client.get("/items/0", headers={"X-Request-ID": given})
        line = await log.line_of(answer)

    assert answer.headers.get_list("x-request-id") == [given]
    assert answer.json()["request_id"] == line["request_id"] == given


async def test_a_malformed_request_id_is_replaced(client: httpx.AsyncClient) -> None:
    made = set()
    malformed = (b"", b"x" * 129, b"a b", b'a"b', b"<b>", b"a\tb", b"\xc3\xa9", b"a,b", b"{}")
    for given in malformed:
        answer = await client.get("/items/0", headers=[(b"X-Request-ID", given)])
        (id_,) = answer.headers.get_list("x-request-id")

        assert re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]+", id_)
        assert answer.json()["request_id"] == id_
        made.add(id_)
    assert len(made) == len(malformed)


async def test_the_content_of_requests_is_not_logged(settings: Settings) -> None:
    settings.log_level = "DEBUG"
    async with logged_client(settings) as (client, log):
        for answer in (
            await client.post("/items", json={"name": SECRET, "description": SECRET}),
            await client.post("/items", json={"name": [SECRET]}),
            await client.post("/items", content=SECRET),
            await client.patch("/items/1", json={"price": SECRET}),
            await client.get("/items", params={"q": SECRET, "sort": SECRET}),
            await client.get("/items", headers={"Authorization": f"Bearer {SECRET}"}),
        ):
            await log.line_of(answer)

    assert SECRET not in log.text()


async def test_an_unhandled_error_is_logged_with_its_frames_and_no_values(
    unserializable_url: str,
) -> None:
    settings = Settings(_env_file=None, database_url=unserializable_url)
    async with logged_client(settings) as (client, log):
        answer = await client.post("/items", json={"name": SECRET, "price": 4711})
        await log.line_of(answer)

    assert answer.status_code == 500
    (line,) = log.events("unhandled_error")
    assert line["level"] == "error"
    assert line["request_id"] == answer.headers["x-request-id"]
    frames = [frame for exception in line["exception"] for frame in exception["frames"]]
    assert all(exception["exc_type"] for exception in line["exception"])
    assert any(frame["filename"].endswith("routers/item.py") for frame in frames)
    for value in (SECRET, "4711", unserializable_url):
        assert value not in log.text()


def test_every_logger_writes_json(settings: Settings) -> None:
    loggers = ["sqlalchemy.pool", "uvicorn.error", "gunicorn.error", "asyncio", "any.library"]
    with reading_log() as log:
        configure_logging(settings)
        for name in loggers:
            logging.getLogger(name).warning("It says %s", "\ud800")  # what JSON cannot hold
            try:
                secret = SECRET
                raise ValueError
            except ValueError:
                logging.getLogger(name).exception("It failed", extra={"length": len(secret)})

    lines = log.lines()
    assert [line["logger"].strip("'") for line in lines] == [n for n in loggers for _ in range(2)]
    assert [line["level"].strip("'") for line in lines] == ["warning", "error"] * len(loggers)
    for line in lines[1::2]:
        assert (line["event"], line["length"]) == ("It failed", len(SECRET))
        assert line["exception"][0]["exc_type"] == "ValueError"
    assert SECRET not in log.text()


async def test_lines_below_the_level_are_left_out(settings: Settings) -> None:
    settings.log_level = "WARNING"
    async with logged_client(settings) as (client, log):
        await client.get("/items/0")

    assert log.text() == ""


@pytest.mark.parametrize("options", [[], ["--sql"]])
def test_migrations_log_json(database_url: str, options: list[str]) -> None:
    ran = items("migrate", *options, env={"DATABASE_URL": database_url})
    lines = [json.loads(line) for line in ran.stderr.splitlines()]

    assert "alembic.runtime.migration" in {line["logger"] for line in lines}
    assert {line["level"] for line in lines} == {"info"}


@pytest.mark.parametrize("changes", [{"log_format": "console"}, {"debug": True}], ids=str)
async def test_the_console_format_is_readable_and_debug_adds_sql(
    settings: Settings, changes: dict[str, Any]
) -> None:
    async with logged_client(settings.model_copy(update=changes)) as (client, log):
        answer = await client.get("/items/0")

    assert "trace" not in answer.text.lower()
    line = next(line for line in log.text().splitlines() if " request " in line)
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z \[info +\] request .*status=404", line)
    assert "\x1b" not in log.text()  # not a terminal: no colours
    assert bool(re.search(r"\[info +\] .*SELECT items\.id", log.text())) == ("debug" in changes)
