"""One `items serve` for all hostile clients: none of them may harm it."""

from collections.abc import Iterator

import pytest

from tests.support.database import new_database
from tests.support.hostile import harmed_by_nothing, serving
from tests.support.processes import Server


@pytest.fixture(scope="package")
def hostile_url(server_url: str, template: str) -> Iterator[str]:
    """A migrated database for the tests of this folder."""
    with new_database(server_url, template) as url:
        yield url


@pytest.fixture(scope="package")
def started(hostile_url: str) -> Iterator[Server]:
    with serving(hostile_url) as server:
        yield server


@pytest.fixture
def server(started: Server) -> Iterator[Server]:
    """`items serve` with two workers; after the test it still serves, and has logged no error."""
    with harmed_by_nothing(started):
        yield started
