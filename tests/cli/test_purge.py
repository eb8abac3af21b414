"""`items purge` deletes expired idempotency keys."""

import pytest

from service.cli.purge import BATCH
from tests.support.commands import items
from tests.support.processes import holding, query, script

# Each transaction that deletes keys, and how many.
NOTE_BATCHES = """
    CREATE TABLE batches (id xid8, size bigint);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO batches SELECT pg_current_xact_id(), count(*) FROM gone;
        RETURN NULL;
    END $$;
    CREATE TRIGGER note AFTER DELETE ON idempotency_keys REFERENCING OLD TABLE AS gone
        FOR EACH STATEMENT EXECUTE FUNCTION note();
"""


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """A database for each test."""
    return own_database_url


def store_keys(url: str, count: int, name: str, expires_at: str) -> None:
    """Store keys named `name` and a number `n`, which `expires_at` may use."""
    script(
        url,
        "INSERT INTO idempotency_keys"
        f" SELECT 'shop', '{name} ' || n, '', 201, '[]', '', {expires_at}"
        f" FROM generate_series(1, {count}) n",
    )


def purge(url: str) -> str:
    """Run the command; return what it prints."""
    return items("purge", env={"DATABASE_URL": url}).stdout


def test_expired_keys_are_deleted_in_batches(database_url: str) -> None:
    store_keys(database_url, 2 * BATCH + 500, "old", "now() - (n - 1) * interval '1 minute'")
    store_keys(database_url, 500, "new", "now() + n * interval '1 hour'")
    script(database_url, NOTE_BATCHES)

    assert purge(database_url) == "Deleted 2500 expired idempotency keys\n"
    assert purge(database_url) == "Deleted 0 expired idempotency keys\n"
    batches = "SELECT sum(size)::int FROM batches GROUP BY id HAVING sum(size) > 0 ORDER BY 1"
    assert query(database_url, batches) == [(500,), (BATCH,), (BATCH,)]
    left = "SELECT count(*), count(*) FILTER (WHERE key LIKE 'new %') FROM idempotency_keys"
    assert query(database_url, left) == [(500, 500)]


def test_a_key_that_a_request_renews_is_neither_waited_for_nor_deleted(database_url: str) -> None:
    store_keys(database_url, 3, "old", "now()")
    renew = "UPDATE idempotency_keys SET expires_at = now() + interval '1 day' WHERE key = 'old 2'"
    with holding(database_url, f"BEGIN; {renew}"):
        assert purge(database_url) == "Deleted 2 expired idempotency keys\n"

    assert query(database_url, "SELECT key FROM idempotency_keys") == [("old 2",)]
