"""Items.

Revision: 4d1f0c6a9b27, the first
"""

import sqlalchemy as sa
from alembic import op

revision = "4d1f0c6a9b27"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '1s'")
    op.create_table(
        "items",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("name", sa.Text(collation="C"), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("price", sa.Numeric(12, 2)),
        sa.Column("is_active", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.func.now(),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.func.now(),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_items")),
        sa.CheckConstraint(
            "char_length(name) <= 255 AND btrim(name) <> ''", name=op.f("ck_items_name_length")
        ),
        sa.CheckConstraint(
            "char_length(description) <= 10000", name=op.f("ck_items_description_length")
        ),
        sa.CheckConstraint("price >= 0 AND price < 'NaN'", name=op.f("ck_items_price_range")),
        sa.CheckConstraint("version >= 1", name=op.f("ck_items_version_positive")),
    )
    op.create_index("ix_items_is_active_id", "items", ["is_active", "id"])
    op.create_index("ix_items_name_id", "items", ["name", "id"])
    op.create_index("ix_items_price_id", "items", ["price", "id"])
    op.create_index("ix_items_created_at_id", "items", ["created_at", "id"])
    # The server checks for pg_trgm, so that the SQL printed offline fits every server. A role may
    # lack the right to create it, and an administrator may have put it into another schema.
    op.execute(
        """
        DO $$
        BEGIN
            IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_trgm') THEN
                CREATE EXTENSION IF NOT EXISTS pg_trgm;
                CREATE INDEX ix_items_name_trgm ON items
                    USING gin (lower(name COLLATE "default") gin_trgm_ops);
            END IF;
        EXCEPTION WHEN insufficient_privilege OR undefined_object OR feature_not_supported THEN
            RAISE WARNING USING MESSAGE = 'The index ix_items_name_trgm was not created: '
                || SQLERRM || '. docs/operations.md says how to add it.';
        END
        $$
        """
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '1s'")
    # The extension stays, because others may use it.
    op.drop_table("items")
