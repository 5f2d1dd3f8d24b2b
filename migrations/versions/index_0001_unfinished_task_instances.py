"""Builds the optional index dagbump_ti_unfinished, without blocking anybody.

Revision ID: index_0001
Revises:

A branch of its own: `alembic upgrade head` leaves it out, `alembic upgrade index@head` and
`dagbump upgrade --with-index` build it.
"""

from __future__ import annotations

from alembic import op
from dagbump import concurrent_index, sql_files

revision = "index_0001"
down_revision = None
branch_labels = ("index",)
depends_on = None


def upgrade() -> None:
    with concurrent_index.building(revision, "dagbump_ti_unfinished"):
        sql_files.run(revision, "create")
    sql_files.run(revision, "comment")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        concurrent_index.drop("dagbump_ti_unfinished")
