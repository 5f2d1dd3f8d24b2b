"""Builds the optional index dagbump_ti_unfinished, without blocking anybody.

Revision ID: index_0001
Revises:

A branch of its own: `alembic upgrade head` leaves it out, `alembic upgrade index@head` and
`dagbump upgrade --with-index` build it.
"""

from __future__ import annotations

from dagbump.installation import concurrent_index, in_migration, sql_files

revision = "index_0001"
down_revision = None
branch_labels = ("index",)
depends_on = None


def upgrade() -> None:
    released = sql_files.MIGRATIONS / "released" / revision
    concurrent_index.build(released / "create.sql", revision)
    in_migration.run(released / "comment.sql")


def downgrade() -> None:
    concurrent_index.drop()
