"""HAProxy in front of two replicas: what it forwards, what it refuses, and what it logs."""

import json
import secrets
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest

from tests.support.compose import Project, Secrets, docker, eventually, inspected, logged, run
from tests.support.samples import LAMP
from tests.support.waiting import TIMEOUT

pytestmark = [pytest.mark.docker, pytest.mark.faults]

JSON = {"Content-Type": "application/json"}
SLEEPING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
WAITING = "SELECT host(client_addr) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


def check_proxy_problem(answer: httpx.Response, status: int, kind: str) -> None:
    """Assert that `answer` is the proxy's own error, in the form of the service's errors."""
    content = answer.json()
    assert (answer.status_code, content["status"]) == (status, status)
    assert content["type"] == f"urn:items-service:{kind}"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == content["request_id"]
    assert content.keys() == {"type", "title", "status", "detail", "instance", "request_id"}
    assert content["instance"] == answer.request.url.raw_path.decode().partition("?")[0]


def exchange(project: Project, sent: bytes) -> str:
    """Send bytes that no HTTP client would send; return what comes back first."""
    address = urlsplit(project.url)
    with socket.create_connection((address.hostname, address.port), timeout=TIMEOUT) as connection:
        connection.sendall(sent)
        return connection.recv(10_000).decode()


def addresses_of(container: str) -> set[str]:
    """Return the container's address in each of its networks."""
    networks = inspected(container)[0]["NetworkSettings"]["Networks"]
    return {network["IPAddress"] for network in networks.values()}


def logged_requests(project: Project) -> list[dict[str, object]]:
    """Return what the proxy has written to stdout, where each line is JSON."""
    ran = run("docker", "logs", project.container("proxy"))
    return [json.loads(line) for line in ran.stdout.splitlines()]


def requests_served(project: Project) -> list[int]:
    """Return how many requests each replica has logged."""
    return [logged(each).count('"event":"request"') for each in project.containers("api")]


def test_requests_and_responses_pass_unchanged(client: httpx.Client) -> None:
    created = client.post("/items", json=LAMP, headers={"X-Request-ID": "mine"})
    read = client.get(created.headers["location"])

    assert (created.status_code, read.json()) == (201, created.json())
    assert created.headers.get_list("x-request-id") == ["mine"]
    assert read.headers["etag"].startswith('"')
    assert json.loads(client.get("/items/export").text.splitlines()[-1]) == read.json()


def test_a_bulk_of_10_megabytes_passes(client: httpx.Client) -> None:
    items = [{"name": "Many", "description": "x" * 10_000} for _ in range(1000)]
    assert client.post("/items/bulk", json={"items": items}).status_code == 201


def test_both_replicas_serve(stack: Project, client: httpx.Client) -> None:
    before = requests_served(stack)
    for _ in range(20):
        client.get("/items/1")
    after = requests_served(stack)
    assert len(after) == 2
    assert all(late > early for early, late in zip(before, after, strict=True))


def test_every_line_of_the_log_is_json_without_the_query(
    stack: Project, client: httpx.Client
) -> None:
    name = f"test-{secrets.token_hex(4)}"
    client.get("/items?q=secret", headers={"X-Request-ID": name})

    def lines() -> list[dict[str, object]]:
        return [line for line in logged_requests(stack) if line["request_id"] == name]

    assert eventually(lambda: len(lines()) == 1)
    assert (lines()[0]["path"], lines()[0]["status"]) == ("/items", 200)
    assert "secret" not in str(lines())


def test_metrics_are_not_forwarded(client: httpx.Client) -> None:
    for path in ("/metrics", "/metrics/", "/%6detrics", "/x/../metrics"):
        check_proxy_problem(client.get(path), 404, "not-found")
    assert client.get("//metrics").status_code == 404


def test_a_header_or_address_that_is_too_large_is_refused(client: httpx.Client) -> None:
    many = [(f"X-{n}", "x" * 1000) for n in range(50)]
    for headers in ({"X-Large": "x" * 40_000}, many):
        check_proxy_problem(client.get("/items", headers=headers), 431, "header-too-large")
    check_proxy_problem(client.get(f"/items?q={'x' * 10_000}"), 414, "uri-too-long")


def test_the_service_itself_refuses_a_body_that_is_too_large_for_an_operation(
    client: httpx.Client,
) -> None:
    for path, size in (("/items", 2_000_000), ("/items/bulk", 17_000_000)):
        answer = client.post(path, content=b" " * size, headers=JSON)
        assert (answer.status_code, answer.json()["instance"]) == (413, path)
        assert "x-content-type-options" in answer.headers  # only the service's responses have it


def test_a_body_that_is_too_large_for_every_operation_is_refused(client: httpx.Client) -> None:
    answer = client.post("/items", content=b" " * 20_000_000, headers=JSON)
    check_proxy_problem(answer, 413, "body-too-large")


def test_a_body_declared_too_large_is_refused_before_it_is_sent(stack: Project) -> None:
    said = exchange(stack, b"POST /items HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000\r\n\r\n")
    assert said.startswith("HTTP/1.1 413 ")
    assert "urn:items-service:body-too-large" in said


def test_bytes_that_are_not_http_are_refused(stack: Project) -> None:
    said = exchange(stack, b"GET /items\x01 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert said.startswith("HTTP/1.1 400 ")


def test_a_header_that_never_ends_is_cut_off(stack: Project) -> None:
    said = exchange(stack, b"GET /items HTTP/1.1\r\nX-Slow: ")  # after 9 s
    assert said.startswith("HTTP/1.1 408 ")


def test_a_client_has_a_bounded_number_of_connections(stack: Project) -> None:
    address = urlsplit(stack.url)
    request = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as connections:

        def connects() -> bool:
            connection = socket.create_connection((address.hostname, address.port), TIMEOUT)
            connections.enter_context(connection)
            try:
                connection.sendall(request)
                return connection.recv(10_000).startswith(b"HTTP/1.1 200 ")
            except ConnectionError:
                return False

        accepted = sum(connects() for _ in range(210))
        assert 150 < accepted <= 200  # other tests may have left some connections open
    assert eventually(lambda: httpx.get(f"{stack.url}/health/live").is_success)


def read_as(project: Project, forwarded: str) -> tuple[int, str]:
    """Read without a key; return the status, and the client's address in the replica's log."""
    name = f"test-{secrets.token_hex(4)}"
    headers = {"X-Forwarded-For": forwarded, "Forwarded": "for=192.0.2.1", "X-Request-ID": name}
    status = httpx.get(f"{project.url}/items", headers=headers, timeout=TIMEOUT).status_code
    (line,) = (
        json.loads(line)
        for replica in project.containers("api")
        for line in logged(replica).splitlines()
        if name in line
    )
    return status, line["client"]


def test_a_forged_address_reaches_neither_the_service_nor_its_log(stack: Project) -> None:
    gateways = {
        network["Gateway"]
        for network in inspected(stack.container("proxy"))[0]["NetworkSettings"][
            "Networks"
        ].values()
    }
    status, client = read_as(stack, "203.0.113.7")
    assert (status, client in gateways) == (401, True)  # how Docker forwards from this machine


def test_the_proxy_follows_its_settings(changed_stack: Project, client: httpx.Client) -> None:
    _, gateway = read_as(changed_stack, "203.0.113.7")
    changed_stack.up(
        TRUSTED_PROXIES=f"{gateway},10.255.0.0/16",
        RATE_LIMIT_READ="2/hour",
        MAX_BULK_BYTES=str(40 * 2**20),
        REQUEST_TIMEOUT="1.5",
        CORS_ORIGINS="https://app.example.com",
    )
    # Clients behind two trusted proxies count one by one, whatever they prepend.
    for address in ("198.51.100.1", "198.51.100.2"):
        chains = [f"{n}.1.1.1, {address}, 10.255.0.{n}" for n in range(1, 4)]
        assert [read_as(changed_stack, chain) for chain in chains] == [
            *((401, address), (401, address), (429, address))
        ]

    # The service responds at its own limits.
    origin = {"Origin": "https://app.example.com"}
    larger = client.post("/items/bulk", content=b" " * 45 * 2**20, headers=JSON | origin)
    assert larger.status_code == 413
    for answer in (
        client.post("/items/bulk", content=b" " * (40 * 2**20 + 1), headers=JSON | origin),
        client.post("/items", content=one_byte_of_two(), headers=JSON | origin),
    ):
        assert answer.status_code in (413, 503)
        assert answer.headers["access-control-allow-origin"] == origin["Origin"]

    # The proxy responds 5 s after the service would.
    replicas = changed_stack.containers("api")
    docker("pause", *replicas)
    try:
        check_proxy_problem(client.get("/items"), 504, "timed-out")
    finally:
        docker("unpause", *replicas)


def one_byte_of_two() -> Iterator[bytes]:
    """Yield the start of a body, whose end arrives after the service's deadline."""
    yield b"{"
    time.sleep(3)
    yield b"}"


def test_a_write_is_sent_once_and_one_replica_is_enough(
    changed_stack: Project, client: httpx.Client
) -> None:
    created = client.post("/items", json=LAMP)
    path, item = created.headers["location"], created.json()["id"]
    locking = f"UPDATE items SET price = price WHERE id = {item}; SELECT pg_sleep(2.5)"
    with ThreadPoolExecutor() as threads:
        locked = threads.submit(changed_stack.sql, f"BEGIN; {locking}; COMMIT")
        assert eventually(lambda: changed_stack.sql(SLEEPING) == "1")
        put = threads.submit(client.put, path, json=LAMP, headers={"X-Request-ID": "sent-once"})
        assert eventually(lambda: changed_stack.sql(WAITING, user="postgres") != "")
        address = changed_stack.sql(WAITING, user="postgres")
        (replica,) = (
            each for each in changed_stack.containers("api") if address in addresses_of(each)
        )
        docker("kill", replica)
        check_proxy_problem(put.result(), 502, "unavailable")
        assert put.result().headers["retry-after"] == "1"
        locked.result()
    (other,) = set(changed_stack.containers("api")) - {replica}
    assert "sent-once" not in logged(other)

    # A write moves to the other replica only because nothing of it was sent.
    for method, status in (("GET", 200), ("PUT", 200), ("PATCH", 200), ("DELETE", 204)):
        body = None if method in ("GET", "DELETE") else LAMP
        answers = {client.request(method, path, json=body).status_code for _ in range(20)}
        assert answers == {status}
    assert {client.post("/items", json=LAMP).status_code for _ in range(20)} == {201}

    docker("kill", other)
    for size in (10, 2_000_000):
        answer = httpx.post(f"{changed_stack.url}/items", content=b" " * size, headers=JSON)
        check_proxy_problem(answer, 503, "unavailable")
        assert answer.headers["retry-after"] == "1"
    (*_, line) = logged_requests(changed_stack)
    assert (line["method"], line["status"]) == ("POST", 503)


def test_the_tls_overlay_serves_https_alone(
    changed_stack: Project, stack_secrets: Secrets, tmp_path: Path
) -> None:
    certificate, key = (stack_secrets.folder / name for name in ("tls_certificate", "tls_key"))
    request = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -days 1"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*request.split(), *names], check=True, capture_output=True)
    key.chmod(0o644)  # HAProxy is not root
    secure = changed_stack.with_files("docker/compose.tls.yml", scheme="https")
    secure.up()

    trusting = ssl.create_default_context(cafile=str(certificate))
    with httpx.Client(base_url=secure.url, verify=trusting, timeout=TIMEOUT) as client:
        answers = [client.get(path) for path in ("/items", "/metrics")]
    assert [answer.status_code for answer in answers] == [401, 404]
    for answer in answers:
        assert "max-age=" in answer.headers["strict-transport-security"]
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{changed_stack.url}/items")
