"""nginx in front of two replicas: what it forwards, what it refuses, and what it logs."""

import json
import secrets
import socket
import ssl
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest

from tests.support.compose import Project, Secrets, docker, eventually, logged
from tests.support.samples import LAMP
from tests.support.waiting import TIMEOUT

pytestmark = [pytest.mark.docker, pytest.mark.faults]

JSON = {"Content-Type": "application/json"}


def check_proxy_problem(answer: httpx.Response, status: int, kind: str) -> None:
    """Assert that `answer` is the proxy's own error, in the form of the service's errors."""
    content = answer.json()
    assert (answer.status_code, content["status"]) == (status, status)
    assert content["type"] == f"urn:items-service:{kind}"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == content["request_id"]


def exchange(project: Project, sent: bytes) -> str:
    """Send bytes that no HTTP client would send; return what comes back first."""
    address = urlsplit(project.url)
    with socket.create_connection((address.hostname, address.port), timeout=TIMEOUT) as connection:
        connection.sendall(sent)
        return connection.recv(10_000).decode()


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

    def lines() -> list[dict[str, str]]:
        texts = [text for text in logged(stack.container("proxy")).splitlines() if "{" in text]
        return [line for line in map(json.loads, texts) if line["request_id"] == name]

    assert eventually(lambda: len(lines()) == 1)
    assert (lines()[0]["path"], lines()[0]["status"]) == ("/items", "200")
    assert "secret" not in str(lines())


def test_metrics_are_not_forwarded(client: httpx.Client) -> None:
    for path in ("/metrics", "/metrics/", "/%6detrics", "//metrics", "/x/../metrics"):
        check_proxy_problem(client.get(path), 404, "not-found")


def test_a_header_or_address_that_is_too_large_is_refused(client: httpx.Client) -> None:
    many = [(f"X-{n}", "x" * 1000) for n in range(50)]
    for headers in ({"X-Large": "x" * 10_000}, many):
        check_proxy_problem(client.get("/items", headers=headers), 431, "header-too-large")
    check_proxy_problem(client.get(f"/items?q={'x' * 10_000}"), 414, "uri-too-long")


@pytest.mark.parametrize(("path", "size"), [("/items", 2_000_000), ("/items/bulk", 17_000_000)])
def test_a_body_that_is_too_large_for_its_operation_is_refused(
    client: httpx.Client, path: str, size: int
) -> None:
    answer = client.post(path, content=b" " * size, headers=JSON)
    check_proxy_problem(answer, 413, "body-too-large")


def test_a_body_declared_too_large_is_refused_before_it_is_sent(stack: Project) -> None:
    said = exchange(stack, b"POST /items HTTP/1.1\r\nHost: x\r\nContent-Length: 16777217\r\n\r\n")
    assert said.startswith("HTTP/1.1 413 ")
    assert '"urn:items-service:body-too-large"' in said


def test_bytes_that_are_not_http_get_a_problem(stack: Project) -> None:
    said = exchange(stack, b"GET /items\x01 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert said.startswith("HTTP/1.1 400 ")
    assert '"urn:items-service:bad-request"' in said


def test_a_header_that_never_ends_is_cut_off(stack: Project) -> None:
    assert exchange(stack, b"GET /items HTTP/1.1\r\nX-Slow: ") == ""  # after 9 s


def test_a_forged_address_neither_evades_a_limit_nor_reaches_the_log(
    changed_stack: Project, client: httpx.Client
) -> None:
    changed_stack.up(RATE_LIMIT_READ="3/hour", API_KEYS="")
    forged = [{"X-Forwarded-For": f"203.0.113.{n}", "Forwarded": f"for={n}"} for n in range(12)]
    answers = [
        httpx.get(f"{changed_stack.url}/items", headers=headers, timeout=TIMEOUT)
        for headers in forged
    ]

    # Without a key each is refused, and counted by its address over both replicas.
    assert [answer.status_code for answer in answers] == [401] * 3 + [429] * 9
    proxy = f"{changed_stack.environment['PROXY_NETWORK']}.2"
    lines = [
        json.loads(line)
        for replica in changed_stack.containers("api")
        for line in logged(replica).split("\n")
        if '"/items"' in line
    ]
    assert len(lines) == 12
    clients = {line["client"] for line in lines}
    assert len(clients) == 1
    assert clients.isdisjoint({proxy, "127.0.0.1", *(each["X-Forwarded-For"] for each in forged)})


def test_one_replica_is_enough_and_without_any_the_proxy_answers_503_or_504(
    changed_stack: Project, client: httpx.Client
) -> None:
    one, other = changed_stack.containers("api")
    docker("kill", one)
    assert {client.get("/items").status_code for _ in range(30)} == {200}
    # A POST moves to the other replica only because nothing of it was sent.
    assert {client.post("/items", json=LAMP).status_code for _ in range(30)} == {201}

    docker("kill", other)
    answer = client.get("/items")
    assert answer.status_code in (502, 504)
    check_proxy_problem(answer, answer.status_code, "unavailable")
    assert answer.headers["retry-after"] == "1"


def test_the_tls_overlay_serves_https_alone(
    changed_stack: Project, stack_secrets: Secrets, tmp_path: Path
) -> None:
    certificate, key = (stack_secrets.folder / name for name in ("tls_certificate", "tls_key"))
    request = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -days 1"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*request.split(), *names], check=True, capture_output=True)
    key.chmod(0o644)  # nginx is not root
    secure = changed_stack.with_files("docker/compose.tls.yml", scheme="https")
    secure.up()

    trusting = ssl.create_default_context(cafile=str(certificate))
    with httpx.Client(base_url=secure.url, verify=trusting, timeout=TIMEOUT) as client:
        answers = [client.get(path) for path in ("/items", "/metrics")]
    assert [answer.status_code for answer in answers] == [401, 404]
    for answer in answers:
        assert "max-age=" in answer.headers["strict-transport-security"]
    assert httpx.get(f"{changed_stack.url}/items").status_code == 400
