"""Serve filters by price and by time of change, and pages by cursor, from an index.

Revision: 8b2e5d90c413, after 4d1f0c6a9b27, created 2026-11-22 18:45
"""

from alembic import op

revision = "8b2e5d90c413"
down_revision = "4d1f0c6a9b27"
branch_labels = None
depends_on = None

NEW = {
    "ix_items_price_key_id": "(coalesce(price, 'Infinity'::numeric), id)",
    "ix_items_updated_at_id": "(updated_at, id)",
}
# While it waits for locks, it blocks neither reads nor writes.
NO_LOCK_TIMEOUT = "-- squawk-ignore require-lock-timeout\n"
OLD = {"ix_items_price_id": "(price, id)"}


def upgrade() -> None:
    _replace(OLD, NEW)


def downgrade() -> None:
    _replace(NEW, OLD)


def _replace(old: dict[str, str], new: dict[str, str]) -> None:
    # CONCURRENTLY, and so outside a transaction: reads and writes continue meanwhile.
    with op.get_context().autocommit_block():
        for name, columns in new.items():
            # An interrupted run leaves an invalid index.
            op.execute(f"{NO_LOCK_TIMEOUT}DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON items {columns}")
        for name in old:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
