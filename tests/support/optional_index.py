"""The optional index, built in the tests as `dagbump upgrade --with-index` builds it, without the waiting."""

from __future__ import annotations

from typing import Any

import psycopg
from dagbump.installation import sql_files

from support.releases import environments


def build_optional_index(connection: psycopg.Connection[Any]) -> None:
    """Build it on Airflow's tables in schema public; the connection is in autocommit mode."""
    path = sql_files.MIGRATIONS / "released" / "index_0001" / "create.sql"
    connection.execute(sql_files.render(sql_files.for_shape(path, environments.shape()), "public").encode())
