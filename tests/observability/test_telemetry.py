"""OpenTelemetry: off by default; on, spans and metrics are sent, and the log names the trace."""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from service.observability import traces
from service.observability.logs import configure_logging
from service.settings import Settings
from tests.support.commands import run
from tests.support.logs import logged_client, reading_log

pytest.importorskip("opentelemetry.sdk", reason="LEFT OUT: telemetry, as the extra `otel` is not")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="LEFT OUT: as above")

from opentelemetry import trace

from tests.support.otlp import Collector, collecting

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SECRET = "hunter2"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
METRICS = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
COLLECTOR = "http://collector:4318"
GIVEN = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
SECRETS = {"Authorization": f"Bearer {SECRET}", "Idempotency-Key": SECRET, "Cookie": SECRET}
# By the id that each request is given.
REQUESTS: dict[str, dict[str, Any]] = {
    "traced": {"url": "/items/0", "headers": GIVEN},
    "traced-422": {"method": "POST", "url": "/items", "json": {"name": ""}, "headers": GIVEN},
    "traced-404": {"url": "/made-up", "headers": GIVEN},
    "unsampled": {"url": "/items", "headers": UNSAMPLED},
    "untraced": {"url": "/items"},
    "untraced-too": {"url": "/items"},
    "malformed": {"url": "/items/0", "headers": {"traceparent": f"00-{TRACE}-{'0' * 16}-01"}},
    "secret-1": {"method": "POST", "url": "/items", "json": {"name": SECRET}, "headers": SECRETS},
    "secret-2": {"url": f"/items?q={SECRET}&page=1"},
    "secret-3": {"url": f"/made-up?x={SECRET}"},
}
PROGRAM = """
import asyncio, json, sys
import httpx2
from service.observability import traces
from service.observability.logs import configure_logging
from service.main import create_app

traces.SHUTDOWN_TIMEOUT = 60  # for a busy machine

async def main():
    app = create_app()
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            for id_, request in json.loads(sys.argv[1]).items():
                request["headers"] = {"X-Request-ID": id_} | request.get("headers", {})
                await client.request(**{"method": "GET"} | request)

asyncio.run(main())
"""
# Its collector takes connections, and never answers. Where metrics go, connections are refused.
UNANSWERED = """
import asyncio, logging, os, socket, threading, time
import httpx2
from service.main import create_app

class Complaints(logging.Handler):
    come = threading.Event()
    def emit(self, record):
        self.come.set()

listener = socket.create_server(("127.0.0.1", 0))
os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = "http://127.0.0.1:%s" % listener.getsockname()[1]

async def main():
    app = create_app()
    logging.getLogger("opentelemetry").addHandler(Complaints())
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            await client.get("/items/0")
            connection, _ = await asyncio.to_thread(listener.accept)
            await asyncio.to_thread(Complaints.come.wait)
            # One exporter was refused, the other now waits for up to 600 seconds.
            for _ in range(3):
                assert (await client.get("/items/0")).status_code == 404
        began = time.monotonic()
    print(time.monotonic() - began)

asyncio.run(main())
"""


@dataclass
class Outcome:
    """What an application has logged and sent."""

    lines: list[dict[str, Any]]
    collector: Collector

    def line(self, request_id: str) -> dict[str, Any]:
        """Return the log's line about a request."""
        (line,) = [
            line
            for line in self.lines
            if line["event"] == "request" and line["request_id"] == request_id
        ]
        return line

    def span(self, request_id: str) -> Any:
        """Return the span of a request."""
        return self.collector.of_requests()[self.line(request_id)["span_id"]]


@pytest.fixture(scope="module")
def outcome(database_url: str) -> Iterator[Outcome]:
    """An application that has served REQUESTS and ended before it had to send anything."""
    with collecting() as collector:
        environment = {
            "DATABASE_URL": database_url,
            ENDPOINT: collector.url,
            "OTEL_SERVICE_NAME": "items-test",
            "OTEL_BSP_SCHEDULE_DELAY": "600000",
        }
        ran = run("python", "-c", PROGRAM, json.dumps(REQUESTS), env=environment)
        yield Outcome([json.loads(line) for line in ran.stderr.splitlines()], collector)


def attributes(span: Any) -> dict[str, Any]:
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No standard variable is set."""
    for name in (ENDPOINT, TRACES, METRICS, "OTEL_SDK_DISABLED", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        monkeypatch.delenv(name, raising=False)


def test_a_request_is_a_span_of_the_trace_it_came_with(outcome: Outcome) -> None:
    line, span = outcome.line("traced"), outcome.span("traced")

    assert span.trace_id.hex() == line["trace_id"] == TRACE
    assert span.parent_span_id.hex() == PARENT
    assert span.name == "GET /items/{item_id}"
    assert attributes(span)["http.route"] == "/items/{item_id}"
    assert attributes(span)["http.response.status_code"] == 404
    assert "url.query" not in attributes(span)
    assert {resource["service.name"] for resource in outcome.collector.resources} == {"items-test"}
    assert outcome.span("traced-404").name == "GET"  # not the path, which a client made up


def test_every_line_about_a_request_names_its_trace(outcome: Outcome) -> None:
    ids = ("traced", "traced-422", "traced-404", "unsampled")

    assert {outcome.line(id_)["trace_id"] for id_ in ids} == {TRACE}
    for line in outcome.lines:
        if line["event"] in ("started", "stopped"):
            assert "trace_id" not in line


def test_a_request_without_a_valid_trace_begins_one(outcome: Outcome) -> None:
    ids = ("untraced", "untraced-too", "malformed")
    lines = [outcome.line(id_) for id_ in ids]

    assert len({line["trace_id"] for line in lines} - {TRACE, "0" * 32}) == len(ids)
    for line in lines:
        assert re.fullmatch(r"[0-9a-f]{32}", line["trace_id"])
        assert re.fullmatch(r"[0-9a-f]{16}", line["span_id"])


def test_nothing_that_a_client_sends_is_sent_on(outcome: Outcome) -> None:
    assert SECRET.encode() not in outcome.collector.raw
    for id_ in ("secret-2", "secret-3"):
        assert attributes(outcome.span(id_))["url.query"] == "REDACTED"


def test_spans_and_metrics_that_are_left_are_sent_at_the_end_and_logs_are_not(
    outcome: Outcome,
) -> None:
    sampled = REQUESTS.keys() - {"unsampled"}
    ids = {outcome.line(id_)["span_id"] for id_ in sampled}

    assert outcome.collector.of_requests().keys() == ids
    assert outcome.collector.counted() == len(REQUESTS)
    assert outcome.collector.paths == {"/v1/traces", "/v1/metrics"}


def test_a_collector_that_does_not_answer_delays_neither_requests_nor_the_end(
    database_url: str,
) -> None:
    environment = {
        "DATABASE_URL": database_url,
        METRICS: "http://127.0.0.1:1",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "100",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "600",
    }
    ran = run("python", "-c", UNANSWERED, env=environment)

    seconds = float(ran.stdout)
    print(f"ended in {seconds:.1f} s")
    assert seconds < 20  # the SDK alone waits for 30
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert [line["event"] for line in lines].count("stopped") == 1
    complaints = [line for line in lines if "opentelemetry" in line.get("logger", "")]
    assert len(complaints) == 1  # of several attempts
    assert "metric_exporter" in complaints[0]["logger"]


def test_an_exporter_complains_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(traces, "monotonic", lambda: now)
    seldom, record = traces._Seldom(), logging.makeLogRecord({})
    assert seldom.filter(record)
    now += 59
    assert not seldom.filter(record)
    now += 1
    assert seldom.filter(record)


@pytest.mark.parametrize(
    ("environment", "is_on"),
    [
        ({}, False),
        ({ENDPOINT: ""}, False),
        ({ENDPOINT: COLLECTOR}, True),
        ({TRACES: COLLECTOR}, True),
        ({METRICS: COLLECTOR}, True),
        ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": COLLECTOR}, False),
        ({TRACES: COLLECTOR, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({ENDPOINT: COLLECTOR, "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({ENDPOINT: COLLECTOR, "OTEL_SDK_DISABLED": "false"}, True),
    ],
    ids=str,
)
def test_the_standard_variables_switch_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], is_on: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert traces.is_on() is is_on
    assert set(traces.options().values()) == {is_on, False}


@pytest.mark.parametrize(
    ("headers", "is_valid"),
    [
        (f"authorization=Bearer%20{SECRET},x-tenant=a", True),
        (f"authorization=Bearer {SECRET}", True),
        (f"Authorization: Bearer {SECRET}", False),
        (SECRET, False),
        (f"x-tenant=a,={SECRET}", False),
        (f"authorization=Bearer%0A{SECRET}", False),
    ],
)
@pytest.mark.parametrize("name", ["HEADERS", "TRACES_HEADERS", "METRICS_HEADERS"])
async def test_malformed_headers_are_not_logged(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, name: str, headers: str, is_valid: bool
) -> None:
    monkeypatch.setenv(ENDPOINT, COLLECTOR)
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", headers)
    with reading_log() as log:
        configure_logging(settings)
        for signal in ("TRACES", "METRICS"):
            with nullcontext() if is_valid else suppress(ValueError):
                traces._check_headers(signal)
        if not is_valid:
            assert traces.start() == []

    assert SECRET not in log.text()
    assert len(log.events("telemetry_off")) == (not is_valid)


@pytest.mark.parametrize(("protocol", "reports"), [("", 0), ("grpc", 1)])
async def test_when_off_there_is_no_provider_and_no_field(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, protocol: str, reports: int
) -> None:
    if protocol:
        monkeypatch.setenv(ENDPOINT, COLLECTOR)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    async with logged_client(settings) as (client, log):
        answer = await client.get("/items/0", headers=GIVEN)
        line = await log.line_of(answer)

    assert answer.status_code == 404
    assert "trace_id" not in line
    errors = [event["error"] for event in log.events("telemetry_off")]
    assert len(errors) == reports
    assert all(protocol in error for error in errors)
    assert type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider"
