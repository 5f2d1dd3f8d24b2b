"""Installs dagbump.bump and dagbump.preview, and what stands around them.

The functions and tables themselves are made from sql/ at the end of every upgrade, by files that create what is missing
and replace what is there. A revision's script does what these cannot, on the way up and down: here, nothing.

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
