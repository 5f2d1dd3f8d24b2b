"""What dagbump is called in a database: its schema, its index, its locks."""

from __future__ import annotations

SCHEMA = "dagbump"
INDEX = "dagbump_ti_unfinished"

# Advisory locks; any numbers that are nobody else's: the bytes of the words.
UPGRADE_LOCK = int.from_bytes(b"dagbump", "big")  # one upgrade or downgrade at a time; the transaction's
INDEX_LOCK = int.from_bytes(b"index", "big")  # one build, or removal, of the index at a time; the session's
