"""PostgreSQL servers for the tests that break them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import Postgres, new_data, new_postgres


@pytest.fixture(scope="session")
def migrated_data() -> Iterator[Path]:
    """A data directory of PostgreSQL with the migrated schema, to copy."""
    with new_data() as folder:
        yield folder


@pytest.fixture(scope="module")
def postgres(migrated_data: Path) -> Iterator[Postgres]:
    """A running PostgreSQL with the migrated schema, for the tests of one module.

    A test that stops it starts it again.
    """
    with new_postgres(migrated_data) as postgres:
        yield postgres
