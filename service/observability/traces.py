"""FastAPI's OpenTelemetry, enabled by the standard environment variables.

OTEL_EXPORTER_OTLP_ENDPOINT, or that of traces or metrics, enables it, and
OTEL_SDK_DISABLED disables it. It requires the extra `otel`.
"""

import asyncio
import logging
import math
import os
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING, Any

import structlog
from opentelemetry import metrics, trace

if TYPE_CHECKING:
    # The SDK is imported only where it is used, as most deployments do not need it.
    from opentelemetry.context import Context
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import Span, TracerProvider

logger = structlog.get_logger(__name__)

PROTOCOL = "http/protobuf"
SHUTDOWN_TIMEOUT = 1.5  # seconds to send the rest when a worker ends, of 2 for the lifespan
LOG_INTERVAL = 60.0  # seconds between two log lines of an exporter


def is_on() -> bool:
    """Return whether traces or metrics are sent."""
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return not is_disabled and (_is_sent("TRACES") or _is_sent("METRICS"))


def options() -> dict[str, Any]:
    """Return FastAPI's `telemetry` options; when off, requests do not look for a provider."""
    # Without its logs, which hold what clients sent, and without its exporters, which wait for an
    # unreachable collector when the process ends.
    return {"tracing": is_on(), "metrics": is_on(), "logs": False, "auto_configure": False}


def start() -> "list[TracerProvider | MeterProvider]":
    """Start sending what FastAPI records; return the providers for `end`."""
    if not is_on():
        return []
    try:
        return _providers()
    except Exception as error:  # an invalid value or no SDK must not stop the service
        logger.warning("telemetry_off", error=str(error))
        return []


async def end(providers: "list[TracerProvider | MeterProvider]") -> None:
    """Send what is left within `SHUTDOWN_TIMEOUT`, or drop it."""
    # The SDK waits for up to 30 seconds without an option to change that, so threads do it, which
    # are abandoned after the timeout.
    threads = [Thread(target=provider.shutdown, daemon=True) for provider in providers]
    for thread in threads:
        thread.start()
    deadline = monotonic() + SHUTDOWN_TIMEOUT
    for thread in threads:
        await asyncio.to_thread(thread.join, deadline - monotonic())


def trace_fields() -> dict[str, str]:
    """Return the ids of the current trace for a log line; empty if there is none."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    return {
        "trace_id": trace.format_trace_id(span.trace_id),
        "span_id": trace.format_span_id(span.span_id),
    }


def _setting(signal: str, name: str) -> str | None:
    """Return a standard variable for TRACES or METRICS, or else the common one."""
    own = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_{name}")
    return own or os.environ.get(f"OTEL_EXPORTER_OTLP_{name}")


def _is_sent(signal: str) -> bool:
    exporter = os.environ.get(f"OTEL_{signal}_EXPORTER") or "otlp"
    return exporter == "otlp" and bool(_setting(signal, "ENDPOINT"))


def _check_headers(signal: str) -> None:
    """Refuse malformed headers, which the SDK and its exporters would log with their secrets.

    Raises:
        ValueError: the variable does not hold headers.
    """
    from opentelemetry.util.re import parse_env_headers

    logging.getLogger(parse_env_headers.__module__).disabled = True
    for part in filter(str.strip, (_setting(signal, "HEADERS") or "").split(",")):
        headers = parse_env_headers(part, liberal=True)
        if not headers or not all(map(str.isprintable, (*headers.keys(), *headers.values()))):
            raise ValueError("OTEL_EXPORTER_OTLP_HEADERS must be like name=value,name=value")


def _providers() -> "list[TracerProvider | MeterProvider]":
    for signal in filter(_is_sent, ("TRACES", "METRICS")):
        protocol = _setting(signal, "PROTOCOL") or PROTOCOL
        if protocol != PROTOCOL:
            raise ValueError(f"The OTLP protocol must be {PROTOCOL}, not {protocol}")
        _check_headers(signal)
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    class SpanProcessor(BatchSpanProcessor):
        def on_start(self, span: "Span", parent_context: "Context | None" = None) -> None:
            # The query holds what clients search for.
            if span.attributes and "url.query" in span.attributes:
                span.set_attribute("url.query", "REDACTED")

    for exporter in (OTLPSpanExporter, OTLPMetricExporter):
        logging.getLogger(exporter.__module__).addFilter(_Seldom())
    providers: list[TracerProvider | MeterProvider] = []
    # `end` stops them: at exit, the SDK would wait.
    if _is_sent("TRACES"):
        tracer_provider = TracerProvider(shutdown_on_exit=False)
        tracer_provider.add_span_processor(SpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(tracer_provider)
        providers.append(tracer_provider)
    if _is_sent("METRICS"):
        reader = PeriodicExportingMetricReader(OTLPMetricExporter())
        meter_provider = MeterProvider([reader], shutdown_on_exit=False)
        metrics.set_meter_provider(meter_provider)
        providers.append(meter_provider)
    return providers


class _Seldom(logging.Filter):
    """Lets a line pass once an interval: an exporter logs several for each failure."""

    def __init__(self) -> None:
        super().__init__()
        self.next = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        if monotonic() < self.next:
            return False
        self.next = monotonic() + LOG_INTERVAL
        return True
