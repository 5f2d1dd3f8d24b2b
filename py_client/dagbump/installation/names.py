"""What dagbump is called in a database: its schema, its index, its lock."""

from __future__ import annotations

SCHEMA = "dagbump"
INDEX = "dagbump_ti_unfinished"

# An advisory lock, of a transaction: one upgrade or downgrade at a time. Any number that is nobody else's.
UPGRADE_LOCK = int.from_bytes(b"dagbump", "big")
