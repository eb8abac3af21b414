"""An OpenTelemetry collector, which receives OTLP over HTTP."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)


class Collector:
    """The data that was received.

    Attributes:
        url: the address to send to.
        raw: the bodies of all requests.
        resources: the attributes of each sender.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.raw = b""
        self.paths: set[str] = set()
        self.resources: list[dict[str, str]] = []
        self.spans: list[Any] = []
        self.metrics: list[Any] = []

    def take(self, path: str, body: bytes) -> None:
        """Keep the body of a request to `path`."""
        self.paths.add(path)
        self.raw += body
        if path == "/v1/traces":
            for traced in ExportTraceServiceRequest.FromString(body).resource_spans:
                self._take_resource(traced.resource)
                self.spans += [span for scope in traced.scope_spans for span in scope.spans]
        elif path == "/v1/metrics":
            for measured in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self._take_resource(measured.resource)
                self.metrics += [m for scope in measured.scope_metrics for m in scope.metrics]

    def _take_resource(self, resource: Any) -> None:
        self.resources.append({a.key: a.value.string_value for a in resource.attributes})

    def of_requests(self) -> dict[str, Any]:
        """Return the spans of requests, by their ids."""
        return {s.span_id.hex(): s for s in self.spans if s.kind == s.SPAN_KIND_SERVER}

    def counted(self) -> int:
        """Return the number of requests in the histograms of durations."""
        histograms = [m for m in self.metrics if m.name == "http.server.request.duration"]
        return sum(point.count for m in histograms for point in m.histogram.data_points)


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            collector.take(self.path, body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            """Write nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield collector
        server.shutdown()
        thread.join()
