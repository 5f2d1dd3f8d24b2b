"""The optional index, built in the tests as `dagbump upgrade --with-index` builds it, without the waiting."""

from __future__ import annotations

from typing import Any

import psycopg
from dagbump.installation import sql_files

from support.releases import environments


def build_optional_index(connection: psycopg.Connection[Any]) -> None:
    """Build it on Airflow's tables in schema public; the connection is in autocommit mode."""
    create = sql_files.of_index("index_0001", "create")
    connection.execute(sql_files.render(create, "public", environments.shape()).encode())
