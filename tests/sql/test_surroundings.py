"""Other features and settings of a database: dagbump works beside them, or names the one that is in the way."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import dagbump
import psycopg
import pytest
from dagbump.database import create_engine
from dagbump.installation import installer
from psycopg import sql
from sqlalchemy.engine import URL
from support import airflow_tables, traps
from support.fleet import Fleet, stale_run
from support.processes import DAGBUMP, command
from support.server import Connect, Server, embedded, libpq, pg_dump, run_client
from support.waits import until

FOR_ALL_TABLES = "CREATE PUBLICATION everything FOR ALL TABLES"


def run(url: URL, *words: str) -> subprocess.CompletedProcess[str]:
    return command(*DAGBUMP, *words, DAGBUMP_URL=libpq(url))


def ok(url: URL, *words: str) -> str:
    done = run(url, *words)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def do(url: URL, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


@pytest.mark.filterwarnings("ignore:wal_level is insufficient")
class TestAPublicationForAllTables:
    def test_everything_works(self, airflow_database: URL) -> None:
        do(airflow_database, FOR_ALL_TABLES)
        for _ in range(2):
            ok(airflow_database, "upgrade")
        with psycopg.connect(libpq(airflow_database), autocommit=True) as connection:
            stale_run(Fleet(connection))
            assert dagbump.bump(connection).bumped == 1
            assert [item for item in dagbump.check(connection) if not item.ok] == []
            assert connection.execute("SELECT dagbump.prune_history('0')").fetchone() == (1,)
        ok(airflow_database, "downgrade")

    @pytest.mark.parametrize(
        ("damage", "item"),
        [
            ("ALTER TABLE dagbump.installation DROP COLUMN one_row", "installation"),
            ("ALTER TABLE dagbump.installation DROP CONSTRAINT installation_pkey", "installation"),
            ("ALTER TABLE dagbump.installation DROP CONSTRAINT installation_one_row_check", "installation"),
            (
                "ALTER TABLE dagbump.installation DROP CONSTRAINT installation_pkey, ADD PRIMARY KEY (release)",
                "installation",
            ),
            ("ALTER TABLE dagbump.history DROP CONSTRAINT history_pkey", "history"),
            ("ALTER TABLE dagbump.history DROP COLUMN id", "history"),
        ],
    )
    def test_a_key_that_is_lost_is_missed_and_made_again(
        self, database: URL, fleet: Fleet, connection: psycopg.Connection[Any], damage: str, item: str
    ) -> None:
        stale_run(fleet)
        dagbump.bump(connection)
        connection.commit()
        do(database, damage)
        do(database, FOR_ALL_TABLES)
        assert [found.item for found in dagbump.check(connection) if not found.ok] == [item]
        connection.commit()

        ok(database, "upgrade")
        assert [found for found in dagbump.check(connection) if not found.ok] == []
        assert connection.execute("SELECT dagbump.prune_history('0')").fetchone() == (1,)


@pytest.mark.once
class TestASubscription:
    """Another database gets every change, for reports. The test has a server of its own, because wal_level has to be
    logical.
    """

    @pytest.fixture
    def publisher(self) -> Iterator[URL]:
        with embedded() as postgres:
            do(postgres.url, "ALTER SYSTEM SET wal_level = logical")
            postgres.restart()
            url = airflow_tables.make_in_embedded(postgres, "airflow")
            ok(url, "upgrade")
            do(url, FOR_ALL_TABLES)
            yield url

    @pytest.fixture
    def subscriber(self, publisher: URL) -> Iterator[URL]:
        url = publisher.set(database="reports")
        do(publisher, "CREATE DATABASE reports")
        schema = run_client("pg_dump", publisher, "--schema-only", "--no-publications")
        run_client("psql", url, "--no-psqlrc", "--quiet", stdin=schema)
        # Within one server, CREATE SUBSCRIPTION would wait for itself while it makes its slot.
        do(publisher, "SELECT pg_create_logical_replication_slot('reports', 'pgoutput')")
        statement = "CREATE SUBSCRIPTION reports CONNECTION {} PUBLICATION everything WITH (create_slot = false)"
        do(url, sql.SQL(statement).format(sql.Literal(libpq(publisher))).as_string())
        until_true(url, "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel")
        yield url
        do(url, "DROP SUBSCRIPTION reports")

    def test_gets_every_change(self, publisher: URL, subscriber: URL) -> None:
        with psycopg.connect(libpq(publisher), autocommit=True) as connection:
            stale_run(Fleet(connection))
            assert dagbump.bump(connection).bumped == 1
        self.same_rows(publisher, subscriber)
        assert do(subscriber, "SELECT dag_id, bumped FROM dagbump.history") == [("d", 1)]

        indexed = run(publisher, "upgrade", "--with-index")  # which may say for whom it waits
        assert indexed.returncode == 0, indexed.stderr
        self.same_rows(publisher, subscriber)
        assert do(publisher, "SELECT dagbump.prune_history('0')") == [(1,)]
        self.same_rows(publisher, subscriber)
        assert do(subscriber, "SELECT FROM dagbump.history") == []
        assert "ok" in ok(publisher, "check")

    def test_goes_on_after_a_downgrade_and_another_upgrade(self, publisher: URL, subscriber: URL) -> None:
        ok(publisher, "downgrade")
        ok(publisher, "upgrade")
        with psycopg.connect(libpq(publisher), autocommit=True) as connection:
            stale_run(Fleet(connection))
            assert dagbump.bump(connection).bumped == 1
        self.same_rows(publisher, subscriber)
        assert do(subscriber, "SELECT dag_id, bumped FROM dagbump.history") == [("d", 1)]

    @staticmethod
    def same_rows(publisher: URL, subscriber: URL) -> None:
        """Wait until all that was written has arrived."""
        ((written,),) = do(publisher, "SELECT pg_current_wal_lsn()")
        arrived = f"SELECT confirmed_flush_lsn >= '{written}' FROM pg_replication_slots WHERE slot_name = 'reports'"
        until_true(publisher, arrived)
        for table in ("task_instance", "dagbump.history", "dagbump.installation", "dagbump.alembic_version"):
            rows = f"SELECT to_jsonb(row)::text FROM {table} AS row ORDER BY 1"
            assert do(subscriber, rows) == do(publisher, rows), table


def until_true(url: URL, query: str) -> None:
    until(lambda: do(url, query) == [(True,)], lambda: query)


class TestInstallation:
    @pytest.mark.parametrize("one_row", ["TRUE", "FALSE", "NULL"])
    def test_there_can_be_no_second_row(self, connection: psycopg.Connection[Any], one_row: str) -> None:
        connection.execute("CREATE TEMPORARY TABLE another AS TABLE dagbump.installation")
        connection.execute(f"UPDATE another SET one_row = {one_row}".encode())
        with pytest.raises(psycopg.errors.IntegrityError):
            connection.execute("INSERT INTO dagbump.installation TABLE another")


class TestADataOnlyRestore:
    """Into another database with dagbump: the single row of dagbump.installation stays, and the history of both is
    there.
    """

    @pytest.mark.parametrize("other_is_empty", [True, False])
    def test_works(
        self, database: URL, fleet: Fleet, postgres: Server, dagbump_template: str, *, other_is_empty: bool
    ) -> None:
        stale_run(fleet)
        dagbump.bump(fleet.connection)
        with postgres.temporary_database(dagbump_template) as other:
            if other_is_empty:
                do(other, "TRUNCATE dagbump.installation, dagbump.history, dagbump.alembic_version")
            else:
                with psycopg.connect(libpq(other), autocommit=True) as connection:
                    stale_run(Fleet(connection))
                    dagbump.bump(connection)
            restore(database, other)
            for table, rows in {"installation": 1, "alembic_version": 1, "history": 2 - other_is_empty}.items():
                assert do(other, f"SELECT count(*) FROM dagbump.{table}") == [(rows,)]
            assert "ok" in ok(other, "check")


def restore(source: URL, target: URL) -> None:
    """Dump the rows in schema dagbump, and restore them, as psql does: what conflicts is left out."""
    words = [*pg_dump.words, "--data-only", "--schema=dagbump", "--dbname", libpq(source.set(**pg_dump.address))]
    rows = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    run_client("psql", target, "--no-psqlrc", "--quiet", stdin=rows)


class TestRowLevelSecurity:
    """FORCED policies apply to the owner too. They never hide a row from a superuser."""

    @pytest.fixture
    def owned(self, airflow_database: URL, postgres: Server) -> Iterator[URL]:
        owner = "dagbump_hidden_owner"  # not that of the traps, whose database may be there too
        with traps.roles(postgres, owner):
            traps.give_to_owner(airflow_database, owner)
            installer.upgrade(create_engine(libpq(traps.as_role(airflow_database, owner))))
            yield traps.as_role(airflow_database, owner)
            do(airflow_database, f"DROP OWNED BY {owner} CASCADE")

    @pytest.mark.parametrize("table", ["task_instance", "dag_run", "dag_version"])
    def test_that_would_hide_rows_is_an_error(self, owned: URL, table: str) -> None:
        with psycopg.connect(libpq(owned), autocommit=True) as connection:
            run_ = stale_run(Fleet(connection))
            connection.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY".encode())
            calls = {
                "bump()",
                "preview()",
                f"verify_scope('{{{run_}}}')",
                "holders()",
                "versions()",
                "repairable()",
                f"repair_batch('{{{run_}}}', 10)",
                "running()",
                f"tasks_of_run({run_})",
                f"versions_of_runs('{{{run_}}}')",
            }
            if table == "dag_version":
                calls |= {"versions_by_day()"}
            for call in sorted(calls):
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
                    connection.execute(f"SELECT * FROM dagbump.{call}".encode())
            assert [item.item for item in dagbump.check(connection) if not item.ok] == ["plain tables"]
        refused = run(owned, "bump")
        assert refused.returncode == 1
        assert "NO FORCE ROW LEVEL SECURITY" in refused.stderr


class TestADatabaseThatIsReadOnly:
    @pytest.fixture
    def read_only(self, database: URL, fleet: Fleet) -> URL:
        stale_run(fleet)
        setting = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on")
        fleet.connection.execute(setting.format(sql.Identifier(str(database.database))))
        return database

    @pytest.mark.parametrize("words", [["upgrade"], ["downgrade"], ["bump"], ["repair", "--yes"]])
    def test_what_writes_says_why_it_cannot(self, read_only: URL, words: list[str]) -> None:
        done = run(read_only, *words)
        assert done.returncode == 1
        assert "read-only" in done.stderr
        assert "default_transaction_read_only" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("words", [["check"], ["preview"], ["versions"], ["history"]])
    def test_what_reads_works(self, read_only: URL, words: list[str]) -> None:
        ok(read_only, *words)


@pytest.mark.slow
@pytest.mark.parametrize("style", ["German, DMY", "SQL, MDY", "Postgres, YMD"])
def test_dates_in_another_style(database: URL, fleet: Fleet, connect: Connect, style: str) -> None:
    stale_run(fleet)
    stale_run(fleet, "held")
    dagbump.bump(fleet.connection, dag_ids=["d"])
    connect().execute("SELECT FROM task_instance WHERE dag_id = 'held' FOR UPDATE")
    setting = sql.SQL("ALTER DATABASE {} SET DateStyle = {}")
    fleet.connection.execute(setting.format(sql.Identifier(str(database.database)), style))

    for words in (["versions"], ["history"], ["holders"]):
        ok(database, *words)
        (row, *_) = json.loads(ok(database, *words, "--json"))
        assert any(re.match(r"\d{4}-\d\d-\d\dT", str(value)) for value in row.values()), row
    ok(database, "check")


def test_an_event_trigger(airflow_database: URL) -> None:
    """A trigger that logs is not in the way. If a trigger refuses, its message is quoted."""
    do(
        airflow_database,
        """
        CREATE TABLE done (tag text);
        CREATE FUNCTION log() RETURNS event_trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO public.done SELECT command_tag FROM pg_event_trigger_ddl_commands(); END $$;
        CREATE EVENT TRIGGER log ON ddl_command_end EXECUTE FUNCTION log();
        """,
    )
    ok(airflow_database, "upgrade")
    assert ("CREATE FUNCTION",) in do(airflow_database, "SELECT DISTINCT tag FROM done")
    do(
        airflow_database,
        """
        CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'no changes before the release'; END $$;
        CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse();
        """,
    )
    refused = run(airflow_database, "downgrade")
    assert refused.returncode == 1
    assert "no changes before the release" in refused.stderr
    assert "Traceback" not in refused.stderr
