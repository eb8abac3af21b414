"""Fold case alike in every locale, and store text in the normal form NFC.

The migration creates the collation `folding`, and rebuilds the trigram index with it.

It also normalizes rows that were stored before the service did so, in batches that each commit. A
normalized row gets a new version and `updated_at`, because clients see a different text. A row
whose normal form is too long for its column stays as it is. The downgrade does not restore text.

The previous version of the code works on this schema, but its searches do not use the index.

Revision: f60b8a2c71d5, after c3a7f1d2e684, created 2026-11-24 09:00
"""

import sqlalchemy as sa
from alembic import op

revision = "f60b8a2c71d5"
down_revision = "c3a7f1d2e684"
branch_labels = None
depends_on = None

# The first candidate that folds É: not every collation does so in every encoding. The first two map
# each letter to one letter, regardless of its neighbors. ICU maps a sigma at the end of a word to
# another letter, so that a part of a word may not match the whole word.
CREATE_COLLATION = """
    DO $$
    DECLARE
        source text;
        folds boolean;
        own text := (SELECT datctype FROM pg_database WHERE datname = current_database());
    BEGIN
        IF to_regcollation('folding') IS NOT NULL THEN
            RETURN; -- an interrupted run has created it
        END IF;
        FOREACH source IN ARRAY ARRAY[
            'FROM pg_c_utf8', -- PostgreSQL 17
            $s$(LC_COLLATE = 'C', LC_CTYPE = 'C.UTF-8')$s$,
            'FROM "und-x-icu"',
            $s$(LC_COLLATE = 'C', LC_CTYPE = $s$ || quote_literal(own) || ')'
        ] LOOP
            BEGIN
                EXECUTE 'CREATE COLLATION folding ' || source;
                EXECUTE 'SELECT lower(chr(201) COLLATE folding) = chr(233)' INTO folds;
                IF folds THEN
                    RETURN;
                END IF;
                DROP COLLATION folding;
            EXCEPTION WHEN undefined_object OR invalid_object_definition
                OR invalid_parameter_value OR feature_not_supported OR program_limit_exceeded THEN
                NULL; -- the server does not have it, or not for this encoding
            END;
        END LOOP;
        CREATE COLLATION folding FROM "C";
        RAISE WARNING 'Searches by q ignore the case of the letters A to Z only: this database has '
            'no collation that folds others. docs/operations.md says more.';
    END
    $$
"""

# A batch waits 1 s for a lock. now() may be the start of the first batch; clients that follow
# changes by `updated_at` would then miss the later batches.
NORMALIZE = """
    DO $$
    DECLARE
        done bigint := (SELECT min(id) - 1 FROM items);
        last bigint;
    BEGIN
        IF getdatabaseencoding() <> 'UTF8' THEN
            RETURN;
        END IF;
        LOOP
            PERFORM set_config('lock_timeout', '1s', true);
            SELECT max(id) INTO last
            FROM (SELECT id FROM items WHERE id > done ORDER BY id LIMIT 10000) AS batch;
            EXIT WHEN last IS NULL;
            UPDATE items SET
                name = normalize(name),
                description = normalize(description),
                version = version + 1,
                updated_at = greatest(clock_timestamp(), updated_at)
            WHERE id > done AND id <= last
                AND (name IS NOT NORMALIZED OR description IS NOT NORMALIZED)
                AND char_length(normalize(name)) <= 255
                AND coalesce(char_length(normalize(description)) <= 10000, true);
            COMMIT;
            done := last;
        END LOOP;
    END
    $$
"""

# pg_trgm may be unavailable, or in a schema that the migrator does not search.
HAS_TRIGRAMS = """
    SELECT 1 FROM pg_opclass WHERE opcname = 'gin_trgm_ops' AND pg_opclass_is_visible(oid)
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '1s'")
    op.execute(CREATE_COLLATION)
    with op.get_context().autocommit_block():
        op.execute(NORMALIZE)
    _replace_index("folding")


def downgrade() -> None:
    _replace_index('"default"')
    op.execute("SET LOCAL lock_timeout = '1s'")
    op.execute("DROP COLLATION IF EXISTS folding")


def _replace_index(collation: str) -> None:
    index = f"items USING gin (lower(name COLLATE {collation}) gin_trgm_ops)"
    context = op.get_context()
    if context.as_sql:
        # The server checks for pg_trgm, so that the SQL fits every server. That allows no
        # CONCURRENTLY: writes wait until the index is built.
        op.execute("SET LOCAL lock_timeout = '1s'")
        op.execute(
            f"""
            DO $$
            BEGIN
                IF EXISTS ({HAS_TRIGRAMS}) THEN
                    CREATE INDEX ix_items_name_trgm_new ON {index};
                    DROP INDEX IF EXISTS ix_items_name_trgm;
                    ALTER INDEX ix_items_name_trgm_new RENAME TO ix_items_name_trgm;
                END IF;
            END
            $$
            """
        )
    elif op.get_bind().scalar(sa.text(HAS_TRIGRAMS)):
        with context.autocommit_block():
            # An interrupted run leaves an invalid index.
            op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_items_name_trgm_new")
            op.execute(f"CREATE INDEX CONCURRENTLY ix_items_name_trgm_new ON {index}")
            op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_items_name_trgm")
            op.execute("ALTER INDEX ix_items_name_trgm_new RENAME TO ix_items_name_trgm")
    with context.autocommit_block():
        # The statistics of an expression are those of its index.
        op.execute("ANALYZE items")
