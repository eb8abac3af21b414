"""OpenTelemetry, FastAPI's own: on where the standard variables name a place to send to.

OTEL_EXPORTER_OTLP_ENDPOINT, or that of one signal, switches it on; OTEL_SDK_DISABLED off. It needs
the extra `otel`.
"""

import os
from typing import Any

from opentelemetry import trace

ENDPOINTS = [
    f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT" for signal in ("", "TRACES_", "METRICS_", "LOGS_")
]


def is_on() -> bool:
    """Whether there is somewhere to send to."""
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return not is_disabled and any(map(os.environ.get, ENDPOINTS))


def options() -> dict[str, Any]:
    """What FastAPI is told. Off, it does not even look for a provider with each request."""
    # Not its logs: they hold what clients sent. Ours are on stderr, and name the trace.
    return {"tracing": is_on(), "metrics": is_on(), "logs": False, "auto_configure": is_on()}


def trace_fields() -> dict[str, str]:
    """The trace of the request being served, for a line in the log; empty if there is none."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    return {
        "trace_id": trace.format_trace_id(span.trace_id),
        "span_id": trace.format_span_id(span.span_id),
    }
