"""Connects a command to the database of its ``--url``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dagbump.command_line.postponed import Postponed
from dagbump.errors import translated

if TYPE_CHECKING:
    import sqlalchemy as sa

    from dagbump import database
    from dagbump.installation import state
else:
    database = Postponed("dagbump.database")
    state = Postponed("dagbump.installation.state")


def engine_for(
    url: str | None, *, trust_owner: bool = False, opened: Callable[[Any], None] | None = None
) -> sa.engine.Engine:
    """Return an engine for the given URL, else for the URL in the environment."""
    return database.create_engine(database.find_url(url), trust_owner=trust_owner, opened=opened)


@contextmanager
def usable_connection(
    url: str | None,
    airflow_schema: str | None,
    *,
    trust_owner: bool = False,
    opened: Callable[[Any], None] | None = None,
) -> Iterator[tuple[sa.engine.Connection, state.Installed]]:
    """Connect for one command; check the installation first, because its errors say more than a missing function."""
    with database.connect(engine_for(url, trust_owner=trust_owner, opened=opened), airflow_schema) as connection:
        with translated():
            installed = state.require_usable(connection, airflow_schema)
        yield connection, installed
