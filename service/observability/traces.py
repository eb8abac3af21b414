"""OpenTelemetry, FastAPI's own: on where the standard variables name a place to send to.

OTEL_EXPORTER_OTLP_ENDPOINT, or that of traces or metrics, switches it on; OTEL_SDK_DISABLED off. It
needs the extra `otel`.
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
    # The SDK is imported where it is used and no sooner: most do without.
    from opentelemetry.context import Context
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import Span, TracerProvider

logger = structlog.get_logger(__name__)

PROTOCOL = "http/protobuf"
LAST_WORDS = 1.5  # seconds to send what is left when a worker ends; Worker leaves 2 for all of it
COMPLAINT_INTERVAL = 60.0  # seconds between an exporter's lines in the log


def is_on() -> bool:
    """Whether there is somewhere to send to."""
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return not is_disabled and (_is_sent("TRACES") or _is_sent("METRICS"))


def options() -> dict[str, Any]:
    """What FastAPI is told. Off, it does not even look for a provider with each request."""
    # Not its logs: they hold what clients sent. Ours are on stderr, and name the trace. And not its
    # exporters: at the end it waits for them for as long as a collector that is away makes it.
    return {"tracing": is_on(), "metrics": is_on(), "logs": False, "auto_configure": False}


def start() -> "list[TracerProvider | MeterProvider]":
    """Begin to send what FastAPI records. Answers with what `end` takes."""
    if not is_on():
        return []
    try:
        return _providers()
    except Exception as error:  # a value that the SDK refuses, or no SDK: no reason not to serve
        logger.warning("telemetry_off", error=str(error))
        return []


async def end(providers: "list[TracerProvider | MeterProvider]") -> None:
    """Send what is left, in `LAST_WORDS` or not at all."""
    # The SDK waits for up to 30 seconds, and an exporter takes no other timeout for its last words;
    # so in threads that may be left behind.
    threads = [Thread(target=provider.shutdown, daemon=True) for provider in providers]
    for thread in threads:
        thread.start()
    deadline = monotonic() + LAST_WORDS
    for thread in threads:
        await asyncio.to_thread(thread.join, deadline - monotonic())


def trace_fields() -> dict[str, str]:
    """The trace of the request being served, for a line in the log; empty if there is none."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    return {
        "trace_id": trace.format_trace_id(span.trace_id),
        "span_id": trace.format_span_id(span.span_id),
    }


def _setting(signal: str, name: str) -> str | None:
    """What the standard variables say for TRACES or METRICS, or else for all."""
    own = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_{name}")
    return own or os.environ.get(f"OTEL_EXPORTER_OTLP_{name}")


def _is_sent(signal: str) -> bool:
    exporter = os.environ.get(f"OTEL_{signal}_EXPORTER") or "otlp"
    return exporter == "otlp" and bool(_setting(signal, "ENDPOINT"))


def _providers() -> "list[TracerProvider | MeterProvider]":
    for signal in filter(_is_sent, ("TRACES", "METRICS")):
        protocol = _setting(signal, "PROTOCOL") or PROTOCOL
        if protocol != PROTOCOL:
            raise ValueError(f"OTLP is sent by {PROTOCOL}, not by {protocol}")
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    class SpanProcessor(BatchSpanProcessor):
        def on_start(self, span: "Span", parent_context: "Context | None" = None) -> None:
            # It holds what clients search for.
            if span.attributes and "url.query" in span.attributes:
                span.set_attribute("url.query", "REDACTED")

    for exporter in (OTLPSpanExporter, OTLPMetricExporter):
        logging.getLogger(exporter.__module__).addFilter(_Seldom())
    providers: list[TracerProvider | MeterProvider] = []
    # `end` ends them: on exit, the SDK would wait.
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
    """Lets a line pass now and then: an exporter says several with each failure."""

    def __init__(self) -> None:
        super().__init__()
        self.next = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        if monotonic() < self.next:
            return False
        self.next = monotonic() + COMPLAINT_INTERVAL
        return True
