"""nginx before two replicas: what it lets through, and what a restart of the replicas costs."""

import asyncio
import json
import secrets
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest

from tests.support.compose import (
    Project,
    docker,
    eventually,
    inspected,
    is_well,
    logged,
    new_project,
)

pytestmark = [pytest.mark.docker, pytest.mark.faults]

PATIENCE = 30.0  # seconds that a client waits for an answer
CLIENTS = 8  # that read, and as many that write


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    """The project with the proxy, as `docker compose up --build` starts it."""
    network = f"10.89.{secrets.randbelow(254) + 1}"  # one that no other project of the tests has
    with new_project("docker/compose.proxy.yml", PROXY_NETWORK=network) as project:
        project.up("--build")
        assert eventually(lambda: all(map(is_well, project.containers("api"))))
        yield project


@pytest.fixture
def changing(project: Project) -> Iterator[Project]:
    """The project, for a test that stops or changes it; restored afterwards."""
    yield project
    project.up()
    assert eventually(lambda: all(map(is_well, project.containers("api"))))


@pytest.fixture
def client(project: Project) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=project.url, timeout=PATIENCE) as client:
        yield client


def connect(project: Project) -> socket.socket:
    """A connection to the proxy, for what no HTTP client would send."""
    address = urlsplit(project.url)
    return socket.create_connection((address.hostname, address.port), timeout=PATIENCE)


def is_problem(answer: httpx.Response, status: int, kind: str) -> bool:
    """Whether the answer is the proxy's own, in the form of the service's errors."""
    content = answer.json()
    return (
        (answer.status_code, content["status"], content["type"])
        == (status, status, f"urn:items-service:{kind}")
        and answer.headers["content-type"] == "application/problem+json"
        and answer.headers["x-request-id"] == content["request_id"]
    )


def served(project: Project) -> list[int]:
    """How many requests each of the replicas has logged."""
    return [logged(each).count('"event":"request"') for each in project.containers("api")]


def test_nginx_finds_its_configuration_right(project: Project) -> None:
    project.compose("exec", "-T", "proxy", "nginx", "-t")


def test_nginx_may_do_nothing_else(project: Project) -> None:
    status = project.compose("exec", "-T", "proxy", "sh", "-c", "cat /proc/[0-9]*/status").split(
        "\n"
    )
    lines = {line for line in status if line.startswith(("CapEff", "CapBnd", "NoNewPrivs"))}
    none = "0000000000000000"
    assert lines == {f"CapEff:\t{none}", f"CapBnd:\t{none}", "NoNewPrivs:\t1"}
    (limits,) = [each["HostConfig"] for each in inspected(project.container("proxy"))]
    assert limits["ReadonlyRootfs"]
    assert min(limits["Memory"], limits["PidsLimit"], len(limits["Ulimits"])) > 0


def test_an_item_is_created_and_read(client: httpx.Client) -> None:
    created = client.post("/items", json={"name": "Lamp"}, headers={"X-Request-ID": "mine"})
    read = client.get(created.headers["location"])

    assert (created.status_code, read.json()) == (201, created.json())
    assert created.headers.get_list("x-request-id") == ["mine"]
    assert read.headers["etag"].startswith('"')
    assert created.headers["server"] == "nginx"


def test_an_export_streams(client: httpx.Client) -> None:
    client.post("/items", json={"name": "Sent"})
    answer = client.get("/items/export")
    assert json.loads(answer.text.splitlines()[-1])["name"] == "Sent"


def test_a_large_bulk_comes_through(client: httpx.Client) -> None:
    items = [{"name": "Many", "description": "x" * 10_000} for _ in range(1000)]
    assert client.post("/items/bulk", json={"items": items}).status_code == 201


def test_both_replicas_serve(project: Project, client: httpx.Client) -> None:
    before = served(project)
    for _ in range(20):
        client.get("/items/1")
    after = served(project)
    assert len(after) == 2
    assert all(late - early > 5 for early, late in zip(before, after, strict=True))


def test_replicas_are_not_published(project: Project) -> None:
    for replica in project.containers("api"):
        assert docker("port", replica) == ""


def test_every_line_of_the_log_is_json(project: Project, client: httpx.Client) -> None:
    name = f"test-{secrets.token_hex(4)}"
    client.get("/items?q=secret", headers={"X-Request-ID": name})

    def line() -> list[dict[str, str]]:
        # `nginx -t` writes to stderr, and the entrypoint in its own words.
        lines = [text for text in logged(project.container("proxy")).splitlines() if "{" in text]
        return [line for line in map(json.loads, lines) if line["request_id"] == name]

    assert eventually(lambda: len(line()) == 1)
    assert (line()[0]["path"], line()[0]["status"]) == ("/items", "200")


def test_metrics_are_not_to_be_had_from_outside(client: httpx.Client) -> None:
    for path in ("/metrics", "/metrics/", "/%6detrics", "//metrics", "/x/../metrics"):
        answer = client.get(path)
        assert is_problem(answer, 404, "not-found"), path


def test_a_large_header_is_refused(client: httpx.Client) -> None:
    one = client.get("/items", headers={"X-Large": "x" * 10_000})
    many = client.get("/items", headers=[(f"X-{n}", "x" * 1000) for n in range(50)])
    long = client.get(f"/items?q={'x' * 10_000}")

    assert is_problem(one, 431, "header-too-large")
    assert is_problem(many, 431, "header-too-large")
    assert is_problem(long, 414, "uri-too-long")


def test_a_large_body_is_refused_with_its_header(project: Project) -> None:
    with connect(project) as connection:
        head = "POST /items HTTP/1.1\r\nHost: x\r\nContent-Length: 16777217\r\n\r\n"
        connection.sendall(head.encode())
        answer = connection.recv(10_000).decode()
    assert answer.startswith("HTTP/1.1 413 ")
    assert '"urn:items-service:body-too-large"' in answer


@pytest.mark.parametrize(("path", "size"), [("/items", 2_000_000), ("/items/bulk", 17_000_000)])
def test_a_body_too_large_for_its_operation_is_refused(
    client: httpx.Client, path: str, size: int
) -> None:
    json_type = {"Content-Type": "application/json"}
    answer = client.post(path, content=b" " * size, headers=json_type)
    assert is_problem(answer, 413, "body-too-large")


def test_what_is_not_http_gets_a_problem(project: Project) -> None:
    with connect(project) as connection:
        connection.sendall(b"GET /items\x01 HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = connection.recv(10_000).decode()
    assert answer.startswith("HTTP/1.1 400 ")
    assert '"urn:items-service:bad-request"' in answer


def test_a_client_that_sends_its_header_slowly_is_closed_within_10_seconds(
    project: Project,
) -> None:
    started = time.monotonic()
    with connect(project) as connection:
        connection.sendall(b"GET /items HTTP/1.1\r\n")
        connection.settimeout(0.2)
        closed = False
        while not closed and time.monotonic() - started < PATIENCE:
            try:
                connection.sendall(b"X")
                closed = connection.recv(1) == b""
            except TimeoutError:
                pass
            except ConnectionError:
                closed = True
    assert closed
    assert time.monotonic() - started < 10


def test_a_forged_address_gains_nothing(changing: Project) -> None:
    changing.up(RATE_LIMIT_WRITE="3/hour")
    forged = [{"X-Forwarded-For": f"203.0.113.{n}", "Forwarded": f"for={n}"} for n in range(6)]
    codes = [
        httpx.post(f"{changing.url}/items", json={"name": "X"}, headers=headers).status_code
        for headers in forged
    ]
    assert codes == [201] * 3 + [429] * 3
    # And it is the client that counts, not the proxy.
    proxy = f"{changing.environment['PROXY_NETWORK']}.2"
    lines = [
        json.loads(line)
        for id_ in changing.containers("api")
        for line in logged(id_).split("\n")
        if '"POST"' in line
    ]
    assert len(lines) == 6
    assert {line["client"] for line in lines}.isdisjoint({proxy, "127.0.0.1"})


def test_one_replica_is_enough_and_without_any_it_says_when_to_come_back(
    changing: Project,
) -> None:
    one, other = changing.containers("api")
    with httpx.Client(base_url=changing.url, timeout=PATIENCE) as client:
        docker("kill", one)
        assert {client.get("/items").status_code for _ in range(50)} == {200}
        # Nothing of a POST was sent to the one that is gone.
        assert {client.post("/items", json={"name": "X"}).status_code for _ in range(50)} == {201}

        docker("kill", other)
        answer = client.get("/items")
    assert answer.status_code in (502, 504)
    assert is_problem(answer, answer.status_code, "unavailable")
    assert answer.headers["retry-after"] == "1"


def test_tls(changing: Project, tmp_path: Path) -> None:
    certificate, key = tmp_path / "tls_certificate", tmp_path / "tls_key"
    request = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -days 1"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*request.split(), *names], check=True, capture_output=True)
    key.chmod(0o644)  # nginx is not root
    secure = changing.with_files("docker/compose.tls.yml", scheme="https")
    secure.up(SECRETS=str(tmp_path))
    secure.compose("exec", "-T", "proxy", "nginx", "-t", SECRETS=str(tmp_path))

    trusting = ssl.create_default_context(cafile=str(certificate))
    with httpx.Client(base_url=secure.url, verify=trusting, timeout=PATIENCE) as client:
        answer = client.get("/items")
        missing = client.get("/metrics")
    assert answer.status_code == 200
    for each in (answer, missing):
        assert "max-age=" in each.headers["strict-transport-security"]
    plain = httpx.get(f"{changing.url}/items")
    assert plain.status_code == 400


@dataclass
class Load:
    """Clients of the proxy that go on while its replicas are restarted, and what they have met."""

    client: httpx.AsyncClient
    least: int  # reads, and writes, until it is enough
    pause: float  # seconds between two requests of a client
    is_over: bool = False
    reads: int = 0
    writes: int = 0
    retries: int = 0
    failures: list[str] = field(default_factory=list)

    def is_enough(self) -> bool:
        return min(self.reads, self.writes) >= self.least

    async def read(self, path: str) -> None:
        """No answer but 200 will do."""
        while not self.is_over:
            said = await self._try("GET", path)
            if said != "200":
                self.failures.append(f"GET: {said}")
            self.reads += 1
            await asyncio.sleep(self.pause)

    async def write(self) -> None:
        """Each may be tried once again, at once and with the same key."""
        while not self.is_over:
            key = secrets.token_hex(16)
            request = {"json": {"name": f"Written {key}"}, "headers": {"Idempotency-Key": key}}
            first = await self._try("POST", "/items", **request)
            if first != "201":
                self.retries += 1
                second = await self._try("POST", "/items", **request)
                if second != "201":
                    self.failures.append(f"POST: {first}, then {second}")
            self.writes += 1
            await asyncio.sleep(self.pause)

    async def _try(self, method: str, path: str, **request: Any) -> str:
        try:
            return str((await self.client.request(method, path, **request)).status_code)
        except httpx.TransportError as exc:
            return repr(exc)


def restart(project: Project, replica: str) -> None:
    docker("restart", replica)


def replace(project: Project, replica: str) -> None:
    """As docker/compose.proxy.yml says to put a new version in its place."""
    docker("stop", replica)
    docker("rm", replica)
    project.compose("up", "--detach", "--no-deps", "--no-recreate", "api")


Renewal = Callable[[Project, str], None]


async def renewed_under_load(
    project: Project, renew: Renewal, least: int = 500, pause: float = 0.02
) -> None:
    """Renew one replica after the other, each as soon as the other is well, until there has been
    load enough; and look whether all went well.
    """
    renewed = 0

    def renew_all() -> None:
        nonlocal renewed
        while not renewed or not load.is_enough():
            for replica in project.containers("api"):
                renew(project, replica)
                assert eventually(lambda: all(map(is_well, project.containers("api"))))
                renewed += 1

    count = "SELECT count(DISTINCT name), count(*) FROM items WHERE name LIKE 'Written %'"
    before = int(project.sql(count).partition("|")[0])
    async with httpx.AsyncClient(base_url=project.url, timeout=PATIENCE) as client:
        path = (await client.post("/items", json={"name": "Read"})).headers["location"]
        load = Load(client, least, pause)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CLIENTS):
                tasks.create_task(load.read(path))
                tasks.create_task(load.write())
            try:
                await asyncio.to_thread(renew_all)
            finally:
                load.is_over = True
    print(
        f"{renewed} times a replica was renewed, {load.reads} reads, {load.writes} writes, "
        f"{load.retries} of them tried again, failed: {load.failures}"
    )
    assert load.failures == []
    assert load.is_enough()
    written = before + load.writes
    assert project.sql(count) == f"{written}|{written}"


@pytest.mark.parametrize("renew", [restart, replace])
async def test_no_client_notices_that_replicas_are_renewed_one_by_one(
    project: Project, renew: Renewal
) -> None:
    await renewed_under_load(project, renew)


@pytest.mark.soak
@pytest.mark.parametrize("renew", [restart, replace])
async def test_no_client_notices_that_replicas_are_renewed_all_the_time(
    project: Project, renew: Renewal
) -> None:
    await renewed_under_load(project, renew, least=50_000, pause=0)
