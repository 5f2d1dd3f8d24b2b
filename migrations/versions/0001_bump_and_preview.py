"""Installs dagbump.bump, dagbump.preview and the other functions and tables.

At the end of every upgrade, the files in sql/ create or replace all functions and tables. A revision's upgrade() and
downgrade() do only what these files cannot do; this revision needs nothing.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

revision = "0001"
down_revision = None
branch_labels = ("dagbump",)
depends_on = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
