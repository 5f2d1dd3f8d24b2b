"""Installs dagbump.bump and dagbump.preview.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from alembic import op
from dagbump import sql_files

revision = "0001"
down_revision = None
branch_labels = ("dagbump",)
depends_on = None


def upgrade() -> None:
    sql_files.run(revision, "preconditions", "schema", "bump", "preview")


def downgrade() -> None:
    for name in ("preview", "bump"):
        op.execute(f"DROP FUNCTION dagbump.{name}(bigint[], text[], integer, boolean)")
