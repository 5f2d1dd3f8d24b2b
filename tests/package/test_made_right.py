"""An upgrade repairs what it finds in schema dagbump, in a database of any encoding."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import URL
from support import airflow_tables
from support.fleet import Fleet
from support.processes import DAGBUMP, command
from support.server import Server, libpq

pytestmark = pytest.mark.slow


def run(url: URL, *words: str) -> subprocess.CompletedProcess[str]:
    return command(*DAGBUMP, *words, DAGBUMP_URL=libpq(url))


def upgraded_and_checked(url: URL) -> None:
    for words in (("upgrade",), ("check",)):
        done = run(url, *words)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP", "KOI8R"])
def test_a_database_of_another_encoding(postgres: Server, tmp_path: Path, encoding: str) -> None:
    name = f"encoded_in_{encoding.lower()}"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        with postgres.maintenance() as connection:
            connection.execute(create.format(sql.Identifier(name), sql.Literal(encoding)))
        url = postgres.database(name)
        airflow_tables.make(url, tmp_path)
        upgraded_and_checked(url)
        with psycopg.connect(libpq(url), autocommit=True, client_encoding="utf8") as connection:
            fleet = Fleet(connection)
            first, _ = fleet.dag("etl", versions=2)
            fleet.ti(fleet.run("etl"), first)
        for words in (["preview"], ["bump"], ["repair", "--yes"], ["versions"], ["history"], ["downgrade", "--yes"]):
            done = run(url, *words)
            assert done.returncode == 0, (words, done.stderr)
    finally:
        postgres.drop_database(name)


@pytest.mark.parametrize(
    "damage",
    [
        "ALTER TABLE dagbump.installation DROP COLUMN functions",
        "ALTER TABLE dagbump.installation RENAME COLUMN release TO released",
        "ALTER TABLE dagbump.installation ALTER COLUMN functions TYPE text",
        "ALTER TABLE dagbump.installation ALTER COLUMN installed_at TYPE text",
        "TRUNCATE dagbump.installation; ALTER TABLE dagbump.installation ADD COLUMN remark text NOT NULL",
        "ALTER TABLE dagbump.installation DROP COLUMN one_row, ADD COLUMN one_row integer",
    ],
)
def test_an_altered_record_of_the_installation(database: URL, fleet: Fleet, role: str, damage: str) -> None:
    fleet.execute("SELECT dagbump.grant_operator(%s)", role)
    fleet.connection.execute(damage.encode())
    ((items,),) = fleet.execute("SELECT array_agg(item) FROM dagbump.check() WHERE NOT ok").fetchall()
    assert "installation" in items
    upgraded_and_checked(database)
    ((reads,),) = fleet.execute("SELECT has_table_privilege(%s, 'dagbump.installation', 'SELECT')", role).fetchall()
    assert reads


def test_another_function_named_bump(database: URL, fleet: Fleet) -> None:
    fleet.execute(
        "CREATE FUNCTION dagbump.bump(text) RETURNS integer LANGUAGE sql SECURITY DEFINER "
        "SET search_path = public, pg_temp AS 'SELECT 1'"
    )
    done = run(database, "check")
    assert "not of this release: dagbump.bump(text)" in done.stdout
    assert run(database, "preview").returncode == 0
    assert run(database, "upgrade").returncode == 0
    assert run(database, "downgrade").returncode == 0


def test_a_bump_of_somebody_else_with_any_search_path(airflow_database: URL) -> None:
    with psycopg.connect(libpq(airflow_database), autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS dagbump_stranger")
        connection.execute("CREATE ROLE dagbump_stranger")
        connection.execute("CREATE SCHEMA dagbump AUTHORIZATION dagbump_stranger")
        connection.execute(
            "CREATE FUNCTION dagbump.bump() RETURNS integer LANGUAGE sql SET search_path = a, b, pg_temp AS 'SELECT 1'"
        )
        try:
            for words in ("upgrade", "check", "preview", "downgrade"):
                done = run(airflow_database, words)
                assert done.returncode == 4
                assert "dagbump_stranger" in done.stdout + done.stderr
        finally:
            connection.execute("DROP SCHEMA dagbump CASCADE")
            connection.execute("DROP ROLE dagbump_stranger")


def test_the_history_has_its_indexes_after_the_old_one_was_renamed(database: URL, fleet: Fleet) -> None:
    query = (
        "SELECT regexp_replace(pg_get_indexdef(indexrelid), '^.*USING', '') FROM pg_index "
        "WHERE indrelid = 'dagbump.history'::regclass ORDER BY 1"
    )
    before = fleet.execute(query).fetchall()
    fleet.execute("ALTER TABLE dagbump.history RENAME TO history_of_last_year")
    upgraded_and_checked(database)
    assert fleet.execute(query).fetchall() == before
