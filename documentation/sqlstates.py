"""The SQLSTATEs that dagbump's SQL raises, and the messages that say why, read from the SQL files."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import psycopg.errors

SQL = Path(__file__).resolve().parent.parent / "sql"
RAISE = re.compile(r"RAISE EXCEPTION\s+'((?:[^']|'')*)'(.*?);", re.DOTALL)
_ERRCODE = re.compile(r"ERRCODE = '(\w+)'")


class State(NamedTuple):
    """A SQLSTATE, PostgreSQL's name for it, if it has one, and the messages, with … for what varies."""

    code: str
    name: str | None
    messages: tuple[str, ...]


def raised() -> list[State]:
    """Return the SQLSTATEs, those of PostgreSQL first."""
    messages: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for file in sorted(SQL.rglob("*.sql")):
        for message, rest in RAISE.findall(file.read_text("utf-8")):
            (name,) = _ERRCODE.findall(rest)
            state = (name, None) if name.startswith("DBU") else (_code(name), name)
            messages[state].append(message.replace("''", "'").replace("%", "…"))
    return [State(code, name, tuple(sorted(set(texts)))) for (code, name), texts in sorted(messages.items())]


def name_of(code: str) -> str:
    """Return PostgreSQL's name of a SQLSTATE."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", psycopg.errors.lookup(code).__name__).lower()


def _code(name: str) -> str:
    return str(getattr(psycopg.errors, name.title().replace("_", "")).sqlstate)
