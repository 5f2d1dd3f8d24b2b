"""Builds the optional index dagbump_ti_unfinished, without blocking other sessions.

Revision ID: index_0001
Revises:

It is a branch of its own. `alembic upgrade head` does not build the index; `alembic upgrade index@head` and
`dagbump upgrade --with-index` do.
"""

from __future__ import annotations

from dagbump.installation import concurrent_index, migration_steps, sql_files

revision = "index_0001"
down_revision = None
branch_labels = ("index",)
depends_on = None


def upgrade() -> None:
    concurrent_index.build(sql_files.of_index(revision, "create"), revision)
    migration_steps.run(sql_files.of_index(revision, "comment"))


def downgrade() -> None:
    concurrent_index.drop()
