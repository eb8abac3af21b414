"""The production stack while its parts stop, restart and are replaced."""

import asyncio
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx
import pytest

from tests.support.compose import Project, Secrets, docker, eventually, inspected
from tests.support.samples import LAMP
from tests.support.waiting import TIMEOUT

pytestmark = [pytest.mark.docker, pytest.mark.faults]

CLIENTS = 8  # that read, and as many that write
KILLED = 137  # exit code of a process that outlived its grace period


def exit_codes(project: Project) -> dict[str, set[int]]:
    """Return the exit codes of each service's containers."""
    codes: dict[str, set[int]] = {}
    for each in inspected(*project.containers()):
        service = each["Config"]["Labels"]["com.docker.compose.service"]
        codes.setdefault(service, set()).add(each["State"]["ExitCode"])
    return codes


def test_without_its_database_every_request_gets_503(
    changed_stack: Project, client: httpx.Client
) -> None:
    changed_stack.compose("stop", "db")  # Docker's DNS then forgets its name, too
    for _ in range(3):
        for method, path, body in (
            ("GET", "/items/1", None),
            ("POST", "/items", LAMP),
            ("GET", "/health/ready", None),
        ):
            answer = client.request(method, path, json=body)
            assert (answer.status_code, int(answer.headers["retry-after"]) > 0) == (503, True)
    assert client.get("/health/live").status_code == 200

    changed_stack.compose("start", "db")
    assert eventually(lambda: client.post("/items", json=LAMP).status_code == 201)
    errors = [
        line
        for replica in changed_stack.containers("api")
        for line in map(json.loads, docker("logs", replica).splitlines())
        if line["level"] == "error"
    ]
    assert errors == []


def test_everything_stops_cleanly_and_the_data_survives(
    changed_stack: Project, stack_secrets: Secrets, client: httpx.Client
) -> None:
    location = client.post("/items", json=LAMP).headers["location"]

    changed_stack.compose("stop")
    codes = exit_codes(changed_stack)
    assert codes.keys() == {"api", "db", "migrate", "redis", "roles", "proxy"}
    assert set.union(*codes.values()) == {0}
    changed_stack.compose("down")
    assert changed_stack.containers() == []
    changed_stack.up()
    assert client.get(location).status_code == 200


def test_a_stop_during_the_start_is_not_a_kill(changed_stack: Project) -> None:
    changed_stack.compose("stop", "api")
    changed_stack.compose("start", "api")
    changed_stack.compose("stop", "api")
    assert KILLED not in exit_codes(changed_stack)["api"]


@dataclass
class Load:
    """Clients that read and write until told to stop, and what they observed."""

    client: httpx.AsyncClient
    minimum: int  # reads, and writes, that make the load sufficient
    pause: float  # seconds between two requests of one client
    is_over: bool = False
    reads: int = 0
    writes: int = 0
    retries: int = 0
    failures: list[str] = field(default_factory=list)

    def is_enough(self) -> bool:
        return min(self.reads, self.writes) >= self.minimum

    async def read(self, path: str) -> None:
        """Read `path`; anything but 200 is a failure."""
        while not self.is_over:
            said = await self._try("GET", path)
            if said != "200":
                self.failures.append(f"GET: {said}")
            self.reads += 1
            await asyncio.sleep(self.pause)

    async def write(self) -> None:
        """Create items with an Idempotency-Key; each may be retried once, at once."""
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


def replace_all(project: Project) -> None:
    """Replace both replicas, after an attempt whose first new replica does not start."""
    failed = project.replace_replicas(POOL_SIZE="0")
    assert (failed.returncode, "does not start" in failed.stderr) == (1, True)
    replaced = project.replace_replicas()
    assert replaced.returncode == 0, replaced.stderr


@pytest.mark.parametrize(
    ("minimum", "pause"), [(200, 0.05), pytest.param(50_000, 0, marks=pytest.mark.soak)]
)
async def test_no_request_fails_while_replicas_are_replaced_one_by_one(
    stack: Project,
    stack_secrets: Secrets,
    minimum: int,
    pause: float,
) -> None:
    rounds = 0

    def replace_until_enough() -> None:
        nonlocal rounds
        while not rounds or not load.is_enough():
            before = stack.containers("api")
            replace_all(stack)
            assert set(before).isdisjoint(stack.containers("api"))
            rounds += 1

    count = "SELECT count(DISTINCT name), count(*) FROM items WHERE name LIKE 'Written %'"
    before = int(stack.sql(count).partition("|")[0])
    headers = {"Authorization": f"Bearer {stack_secrets.key}"}
    async with httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=TIMEOUT) as client:
        path = (await client.post("/items", json=LAMP)).headers["location"]
        load = Load(client, minimum, pause)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CLIENTS):
                tasks.create_task(load.read(path))
                tasks.create_task(load.write())
            try:
                await asyncio.to_thread(replace_until_enough)
            finally:
                load.is_over = True
    print(
        f"{rounds} rounds, {load.reads} reads, {load.writes} writes,"
        f" {load.retries} retries, failures: {load.failures}"
    )
    assert load.failures == []
    written = before + load.writes
    assert stack.sql(count) == f"{written}|{written}"
