"""A process that reads the log and stands still: `items serve 2> >(exec sleep 300)`."""

import os
import signal
import subprocess

import httpx2 as httpx
import pytest

from tests.support.commands import ROOT, clean_environment
from tests.support.metrics import parse, value
from tests.support.processes import ITEMS, free_port
from tests.support.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.faults

REQUESTS = 1000  # 264 fill a pipe of 64 KiB


def test_a_reader_that_stands_still_stops_neither_requests_nor_the_end(database_url: str) -> None:
    port = free_port()
    env = {"DATABASE_URL": database_url, "PORT": str(port), "WEB_CONCURRENCY": "2"}
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [ITEMS, "serve"], cwd=ROOT, env=clean_environment() | env, stderr=writer
    )
    os.close(writer)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT) as client:

            def is_live() -> bool:
                try:
                    return client.get("/health/live").status_code == 200
                except httpx.TransportError:
                    return False

            wait_until(is_live)
            for _ in range(REQUESTS):
                assert client.get("/health/live").status_code == 200
            wait_until(
                lambda: value(parse(client.get("/metrics").text), "log_lines_dropped_total") > 0
            )
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reader)
