"""dagbump.holders: which transactions have locked the TIs that bump counts in "locked". Real connections take real
locks.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import dagbump
import psycopg
import pytest
from dagbump import database as dagbump_database
from dagbump.embedded_postgres import embedded_postgres
from dagbump.installation import installer
from dagbump.wording import age, how_to_end
from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy.engine import URL
from sqlalchemy.orm import Session
from support import airflow_tables
from support.fleet import Fleet, stale_run
from support.processes import DAGBUMP, command
from support.server import Connect, libpq
from support.waits import until_waiting_for_lock
from typing_extensions import LiteralString

pytestmark = [pytest.mark.server, pytest.mark.tables, pytest.mark.usefixtures("impatient")]

Connection = psycopg.Connection[Any]
Row = dict[str, Any]

HOLD_A_TI = (
    "SELECT FROM task_instance WHERE id = %s FOR UPDATE",
    "SELECT FROM task_instance WHERE id = %s FOR NO KEY UPDATE",
    "SELECT FROM task_instance WHERE id = %s FOR SHARE",
    "UPDATE task_instance SET updated_at = now() WHERE id = %s",
    "DELETE FROM task_instance WHERE id = %s",
)
HOLD_A_VERSION = (
    "SELECT FROM dag_version WHERE id = %s FOR UPDATE",
    "UPDATE dag_version SET id = gen_random_uuid() WHERE id = %s",
    "DELETE FROM dag_version WHERE id = %s",
)


def look(connection: Connection, arguments: str = "") -> list[Row]:
    """Check that bump counts the same TIs as locked, and return the rows of holders."""
    with psycopg.Cursor(connection, row_factory=dict_row) as cursor:
        rows = cursor.execute(f"SELECT * FROM dagbump.holders({arguments})".encode()).fetchall()
    connection.rollback()
    if not arguments:
        counted = {
            run.dag_run_id: run.locked for run in dagbump.bump(connection, caller_verifies=True).runs if run.locked
        }
        connection.rollback()
        whole = {row["dag_run_id"] for row in rows if row["held"] == "dag_version"}
        tis = {(row["dag_run_id"], row["task_id"], row["map_index"]) for row in rows if row["held"] == "task_instance"}
        held = Counter(run for run, _, _ in tis)
        assert {run: counted[run] if run in whole else held[run] for run in whole | held.keys()} == counted
    return rows


def pid(connection: Connection) -> int:
    return connection.info.backend_pid


def stale_ti(fleet: Fleet, run: int) -> UUID:
    row = fleet.execute(
        "SELECT ti.id FROM {schema}.task_instance AS ti JOIN {schema}.dag_run AS run USING (dag_id, run_id) "
        "WHERE ti.state = 'scheduled' AND run.id = %s",
        run,
    ).fetchone()
    assert row is not None
    ti: UUID = row[0]
    return ti


class TestTaskInstance:
    @pytest.fixture(autouse=True)
    def run(self, fleet: Fleet) -> int:
        return stale_run(fleet)

    @pytest.fixture
    def ti(self, fleet: Fleet, run: int) -> UUID:
        return stale_ti(fleet, run)

    def test_nobody_holds_it(self, connection: Connection) -> None:
        assert look(connection) == []

    @pytest.mark.parametrize("hold", HOLD_A_TI)
    def test_held(self, fleet: Fleet, connection: Connection, connect: Connect, run: int, ti: UUID, hold: str) -> None:
        other = connect(application_name="the holder")
        other.execute(hold.encode(), (ti,))

        (row,) = look(connection)
        assert (row["dag_run_id"], row["dag_id"], row["held"], row["map_index"]) == (run, "d", "task_instance", -1)
        task = fleet.execute("SELECT task_id, run_id FROM {schema}.task_instance WHERE id = %s", ti).fetchone()
        assert (row["task_id"], row["run_id"]) == task
        assert (row["pid"], row["application_name"], row["certain"]) == (pid(other), "the holder", True)
        assert (row["usename"], row["state"], row["gid"]) == (other.info.user, "idle in transaction", None)
        started = fleet.execute("SELECT xact_start FROM pg_stat_activity WHERE pid = %s", pid(other)).fetchone()
        assert (row["xact_start"],) == started

        other.rollback()
        assert look(connection) == []

    def test_key_share_is_in_nobodys_way(self, connection: Connection, connect: Connect, ti: UUID) -> None:
        connect().execute("SELECT FROM task_instance WHERE id = %s FOR KEY SHARE", (ti,))
        assert look(connection) == []

    def test_key_share_beside_an_update(self, connection: Connection, connect: Connect, ti: UUID) -> None:
        sharing, updating = connect(), connect()
        sharing.execute("SELECT FROM task_instance WHERE id = %s FOR KEY SHARE", (ti,))
        updating.execute("UPDATE task_instance SET updated_at = now() WHERE id = %s", (ti,))

        (row,) = look(connection)
        assert (row["pid"], row["certain"]) == (pid(updating), True)

    def test_two_share_it(self, connection: Connection, connect: Connect, ti: UUID) -> None:
        others = [connect(), connect()]
        for other in others:
            other.execute("SELECT FROM task_instance WHERE id = %s FOR SHARE", (ti,))

        assert {(row["pid"], row["certain"]) for row in look(connection)} == {(pid(other), True) for other in others}
        others[0].rollback()
        assert [row["pid"] for row in look(connection)] == [pid(others[1])]

    def test_one_holds_it_twice(self, connection: Connection, connect: Connect, ti: UUID) -> None:
        other, sharing = connect(), connect()
        sharing.execute("SELECT FROM task_instance WHERE id = %s FOR KEY SHARE", (ti,))
        other.execute("SELECT FROM task_instance WHERE id = %s FOR SHARE", (ti,))
        with other.transaction():
            other.execute("SELECT FROM task_instance WHERE id = %s FOR NO KEY UPDATE", (ti,))

            assert [(row["pid"], row["certain"]) for row in look(connection)] == [(pid(other), True)]

    def test_in_a_savepoint(self, connection: Connection, connect: Connect, ti: UUID) -> None:
        other = connect()
        other.execute("SAVEPOINT nested")
        other.execute("SELECT FROM task_instance WHERE id = %s FOR UPDATE", (ti,))

        assert [(row["pid"], row["certain"]) for row in look(connection)] == [(pid(other), True)]

    def test_a_savepoint_rolled_back_holds_nothing(self, connection: Connection, connect: Connect, ti: UUID) -> None:
        other = connect()
        other.execute("SAVEPOINT nested")
        other.execute("SELECT FROM task_instance WHERE id = %s FOR UPDATE", (ti,))
        other.execute("ROLLBACK TO SAVEPOINT nested")

        assert look(connection) == []

    @pytest.mark.parametrize("hold", HOLD_A_TI)
    def test_in_a_savepoint_that_was_released(
        self, connection: Connection, connect: Connect, ti: UUID, hold: str
    ) -> None:
        """pg_locks does not list it; the one transaction on that table that was there before is the holder."""
        elsewhere, late = connect(), connect()
        elsewhere.execute("SELECT FROM dag_version FOR KEY SHARE")
        other = connect()
        other.execute("UPDATE dag_run SET updated_at = now()")
        other.execute("SAVEPOINT nested")
        other.execute(hold.encode(), (ti,))
        other.execute("RELEASE SAVEPOINT nested")
        late.execute("SELECT FROM task_instance WHERE id <> %s FOR UPDATE", (ti,))

        assert [(row["pid"], row["certain"]) for row in look(connection)] == [(pid(other), True)]

    def test_in_a_savepoint_that_was_released_among_others(
        self, connection: Connection, connect: Connect, ti: UUID
    ) -> None:
        suspect, other = connect(), connect()
        suspect.execute("SELECT FROM task_instance WHERE id <> %s FOR UPDATE", (ti,))
        other.execute("UPDATE dag_run SET updated_at = now()")
        other.execute("SAVEPOINT nested")
        other.execute("SELECT FROM task_instance WHERE id = %s FOR UPDATE", (ti,))
        other.execute("RELEASE SAVEPOINT nested")

        rows = look(connection)
        assert {(row["pid"], row["certain"]) for row in rows} == {(pid(suspect), False), (pid(other), False)}

    def test_in_a_list_by_a_savepoint_that_was_released(
        self, connection: Connection, connect: Connect, ti: UUID
    ) -> None:
        other, sharing = connect(), connect()
        other.execute("UPDATE dag_run SET updated_at = now()")
        other.execute("SAVEPOINT nested")
        other.execute("SELECT FROM task_instance WHERE id = %s FOR SHARE", (ti,))
        other.execute("RELEASE SAVEPOINT nested")
        sharing.execute("SELECT FROM task_instance WHERE id = %s FOR SHARE", (ti,))

        rows = look(connection)
        assert {(row["pid"], row["certain"]) for row in rows} == {(pid(sharing), True), (pid(other), True)}

    @pytest.mark.parametrize("nested", [False, True])
    def test_prepared(self, fleet: Fleet, connection: Connection, connect: Connect, ti: UUID, nested: bool) -> None:
        other = connect()
        other.execute("UPDATE dag_run SET updated_at = now()")
        if nested:
            other.execute("SAVEPOINT nested")
        other.execute("SELECT FROM task_instance WHERE id = %s FOR UPDATE", (ti,))
        if nested:
            other.execute("RELEASE SAVEPOINT nested")
        other.execute("PREPARE TRANSACTION 'left behind'")
        try:
            (row,) = look(connection)
        finally:
            fleet.execute("ROLLBACK PREPARED 'left behind'")
        assert (row["pid"], row["gid"], row["state"], row["certain"]) == (None, "left behind", "prepared", True)
        assert (row["usename"], row["application_name"]) == (other.info.user, None)
        assert row["xact_start"] is not None

    def test_prepared_is_ended_by_what_the_page_shows(
        self, fleet: Fleet, connection: Connection, connect: Connect, ti: UUID
    ) -> None:
        other = connect()
        other.execute("SELECT FROM task_instance WHERE id = %s FOR UPDATE", (ti,))
        other.execute("PREPARE TRANSACTION 'somebody''s'")
        (holder,) = dagbump.holders(connection)
        advice, command = how_to_end(holder)
        fleet.execute(command)
        assert "COMMIT PREPARED" in advice
        assert look(connection) == []

    def test_a_bump_of_ours(self, connection: Connection, connect: Connect) -> None:
        other = connect()
        assert dagbump.bump(other).bumped == 1

        assert [(row["pid"], row["held"]) for row in look(connection)] == [(pid(other), "task_instance")]

    def test_what_the_caller_holds_is_not_in_its_way(self, connection: Connection, ti: UUID) -> None:
        connection.execute("SELECT FROM task_instance WHERE id = %s FOR UPDATE", (ti,))
        assert connection.execute("SELECT FROM dagbump.holders()").fetchall() == []

    def test_the_caller_shares_it_with_another(self, connection: Connection, connect: Connect, ti: UUID) -> None:
        other = connect()
        for sharing in (other, connection):
            sharing.execute("SELECT FROM task_instance WHERE id = %s FOR SHARE", (ti,))

        assert connection.execute("SELECT pid FROM dagbump.holders()").fetchall() == [(pid(other),)]

    def test_it_is_seen_anew_within_a_transaction(self, connection: Connection, connect: Connect, ti: UUID) -> None:
        """Within a transaction, pg_stat_activity repeats its first answer until the snapshot is cleared."""
        connection.execute("SELECT FROM pg_stat_activity").fetchall()
        other = connect(application_name="a new one")
        other.execute("SELECT FROM task_instance WHERE id = %s FOR UPDATE", (ti,))

        names = connection.execute("SELECT application_name FROM dagbump.holders()").fetchall()
        assert names == [("a new one",)]

    def test_in_a_snapshot_of_before(self, connection: Connection, connect: Connect, ti: UUID) -> None:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT FROM dag")
        other = connect()
        other.execute("SELECT FROM task_instance WHERE id = %s FOR UPDATE", (ti,))

        assert connection.execute("SELECT pid FROM dagbump.holders()").fetchall() == [(pid(other),)]

    def test_who_waits_for_it_holds_nothing(self, connection: Connection, connect: Connect, ti: UUID) -> None:
        other, waiting = connect(), connect()
        other.execute("SELECT FROM task_instance WHERE id = %s FOR UPDATE", (ti,))
        thread = threading.Thread(
            target=lambda: waiting.execute("SELECT FROM task_instance WHERE id = %s FOR UPDATE", (ti,))
        )
        thread.start()
        until_waiting_for_lock(connect(autocommit=True), waiting)

        rows = look(connection)
        other.rollback()
        thread.join()
        assert [row["pid"] for row in rows] == [pid(other)]

    def test_a_reader_waits_for_nobody_and_nobody_for_it(
        self, connection: Connection, connect: Connect, ti: UUID
    ) -> None:
        other = connect()
        other.execute("SELECT FROM task_instance WHERE id = %s FOR KEY SHARE", (ti,))
        connection.execute("SELECT FROM dagbump.holders()")

        bumping = connect(options="-c lock_timeout=50ms")
        assert dagbump.bump(bumping).bumped == 1

    def test_only_what_is_asked_for(self, fleet: Fleet, connection: Connection, connect: Connect, run: int) -> None:
        other_run = stale_run(fleet, "other")
        connect().execute("SELECT FROM task_instance FOR UPDATE")

        def runs(arguments: str) -> list[int]:
            return [row["dag_run_id"] for row in look(connection, arguments)]

        assert sorted(runs("")) == [run, other_run]
        assert runs(f"'{{{run}}}'") == [run]
        assert runs("dag_ids => '{other}'") == [other_run]
        assert runs("'{}'") == runs("dag_ids => '{}'") == runs(f"'{{{run}}}', '{{other}}'") == []

    @pytest.mark.parametrize(
        "obstacle",
        [
            "UPDATE {schema}.dag SET is_paused = true",
            "UPDATE {schema}.dag_run SET run_after = now() + interval '1 day'",
            "DELETE FROM {schema}.serialized_dag",
        ],
    )
    def test_in_a_run_that_bump_leaves_alone(
        self, fleet: Fleet, connection: Connection, connect: Connect, run: int, obstacle: LiteralString
    ) -> None:
        fleet.execute(obstacle)
        connect().execute("SELECT FROM task_instance FOR UPDATE")

        (row,) = look(connection, "NULL")
        assert (row["dag_run_id"], row["held"]) == (run, "task_instance")

    def test_in_a_pinned_run_only_what_repair_would_move(
        self, fleet: Fleet, connection: Connection, connect: Connect
    ) -> None:
        old, new = fleet.dag("pinned", versions=2)
        run = fleet.run("pinned", bundle_version="abc", created_dag_version_id=old)
        fleet.ti(run, old, "scheduled", task_id="on its own version")
        fleet.ti(run, new, "scheduled", task_id="on another one")
        fleet.ti(run, None, "scheduled", task_id="without a version")
        connect().execute("SELECT FROM task_instance FOR UPDATE")

        assert [row["task_id"] for row in look(connection, "NULL, '{pinned}'")] == ["without a version"]

    def test_the_version_of_a_pinned_run(self, fleet: Fleet, connection: Connection, connect: Connect) -> None:
        old, new = fleet.dag("pinned", versions=2)
        run = fleet.run("pinned", bundle_version="abc", created_dag_version_id=old)
        fleet.ti(run, None, "scheduled")
        other = connect()
        other.execute("SELECT FROM dag_version WHERE id = %s FOR UPDATE", (new,))
        assert look(connection, "NULL, '{pinned}'") == []
        other.execute("SELECT FROM dag_version WHERE id = %s FOR UPDATE", (old,))

        assert [row["held"] for row in look(connection, "NULL, '{pinned}'")] == ["dag_version"]


@pytest.mark.pair
class TestVersion:
    @pytest.fixture(autouse=True)
    def run(self, fleet: Fleet) -> int:
        """An unverified run with two stale TIs: nothing refers to the latest version, so that it can be deleted."""
        old, self.new = fleet.dag("d", versions=2)
        run = fleet.run("d")
        fleet.tis(run, old, ["scheduled", None])
        return run

    @pytest.mark.parametrize("hold", HOLD_A_VERSION)
    def test_held(self, connection: Connection, connect: Connect, run: int, hold: str) -> None:
        other = connect()
        if hold.startswith("UPDATE"):
            other.execute("DELETE FROM serialized_dag WHERE dag_version_id = %s", (self.new,))
        other.execute(hold.encode(), (self.new,))

        (row,) = look(connection)
        assert (row["dag_run_id"], row["held"], row["task_id"], row["map_index"]) == (run, "dag_version", None, None)
        assert (row["pid"], row["certain"]) == (pid(other), True)

    @pytest.mark.parametrize("hold", HOLD_A_VERSION[::2])
    def test_updated_and_then_held(self, connection: Connection, connect: Connect, hold: str) -> None:
        other = connect()
        other.execute("UPDATE dag_version SET last_updated = now() WHERE id = %s", (self.new,))
        other.execute(hold.encode(), (self.new,))

        assert [(row["held"], row["pid"]) for row in look(connection)] == [("dag_version", pid(other))]

    @pytest.mark.parametrize("strength", ["NO KEY UPDATE", "SHARE", "KEY SHARE"])
    def test_not_in_the_way(self, connection: Connection, connect: Connect, strength: str) -> None:
        connect().execute(f"SELECT FROM dag_version FOR {strength}".encode())
        assert look(connection) == []

    def test_both_held(self, connection: Connection, connect: Connect) -> None:
        of_version, of_ti = connect(), connect()
        of_version.execute("SELECT FROM dag_version WHERE id = %s FOR UPDATE", (self.new,))
        of_ti.execute("SELECT FROM task_instance WHERE state = 'scheduled' FOR UPDATE")

        rows = look(connection)
        assert sorted((row["held"], row["pid"]) for row in rows) == [
            ("dag_version", pid(of_version)),
            ("task_instance", pid(of_ti)),
        ]

    def test_held_where_nothing_is_stale(self, fleet: Fleet, connection: Connection, connect: Connect) -> None:
        fleet.execute("UPDATE {schema}.task_instance SET state = 'success'")
        connect().execute("SELECT FROM dag_version FOR UPDATE")

        assert look(connection) == []

    def test_deleted_for_good(self, fleet: Fleet, connection: Connection) -> None:
        fleet.execute("DELETE FROM {schema}.dag_version WHERE id = %s", self.new)
        assert look(connection) == []


SESSIONS = 45


class Meeting:
    """A fresh cluster in which the numbers of transactions that follow are those of multixacts in progress, too.

    45 sessions have locked 45 rows, in 45 orders: for each of them that is 44 multixacts, of other members each.
    """

    def __init__(self, url: URL, stack: ExitStack) -> None:
        self.url = url
        self.stack = stack
        self.fleet = Fleet(self.connect(autocommit=True))
        self.run = stale_run(self.fleet)
        self.fleet.execute("CREATE TABLE rows AS SELECT generate_series(1, 100) AS id")
        self.sessions = [self.connect() for _ in range(SESSIONS)]
        for number in range(1, SESSIONS + 1):
            for session in self.sessions[number:] + self.sessions[:number]:
                session.execute("SELECT FROM rows WHERE id = %s FOR SHARE", (number,))

    def connect(self, **arguments: Any) -> Connection:
        connection = psycopg.connect(libpq(self.url), **arguments)
        self.stack.callback(connection.close)
        return connection

    def xmax(self, table: str, row: int | UUID) -> int:
        query = sql.SQL("SELECT xmax::text::int FROM {} WHERE id = %s").format(sql.Identifier(table))
        (number,) = self.fleet.connection.execute(query, (row,)).fetchone() or (0,)
        return int(number)


@pytest.fixture(scope="module")
def meeting() -> Iterator[Meeting]:
    with embedded_postgres() as postgres, ExitStack() as stack:
        url = airflow_tables.make_in_embedded(postgres)
        installer.upgrade(dagbump_database.create_engine(libpq(url)))
        yield Meeting(url, stack)


@pytest.mark.once
@pytest.mark.slow
class TestNumbers:
    """An xmax is the number of a transaction, or of a multixact: SQL does not say which."""

    @pytest.fixture
    def ti(self, meeting: Meeting) -> UUID:
        return stale_ti(meeting.fleet, meeting.run)

    def test_a_transaction_whose_number_is_that_of_a_multixact_elsewhere(self, meeting: Meeting, ti: UUID) -> None:
        other = meeting.connect()
        other.execute("SELECT FROM task_instance WHERE id = %s FOR UPDATE", (ti,))
        number = meeting.xmax("task_instance", ti)
        behind = meeting.fleet.execute("SELECT mode FROM dagbump.transactions_behind(%s)", number).fetchall()
        assert {mode for (mode,) in behind} == {None, "sh"}

        assert [(row["pid"], row["certain"]) for row in look(meeting.connect())] == [(pid(other), True)]
        other.close()

    def test_both_are_on_the_table(self, meeting: Meeting, ti: UUID) -> None:
        """Then it may be either of them, so holders shows all of them as uncertain."""
        assert meeting.xmax("rows", SESSIONS) > 1_900
        other = meeting.connect()
        other.execute("SELECT FROM task_instance WHERE id = %s FOR UPDATE", (ti,))
        for session in meeting.sessions:
            session.execute("SELECT FROM task_instance WHERE id <> %s FOR KEY SHARE", (ti,))

        rows = look(meeting.connect())
        assert pid(other) in {row["pid"] for row in rows}
        assert len(rows) > 2
        assert not any(row["certain"] for row in rows)
        other.close()

    def test_a_multixact_whose_number_is_that_of_a_transaction_elsewhere(self, meeting: Meeting, ti: UUID) -> None:
        """This runs last of the three, because it assigns the numbers that the other two expect."""
        for _ in range(2):
            meeting.connect().execute("SELECT FROM rows WHERE id = 92 FOR SHARE")
        last = meeting.xmax("rows", 92)
        meeting.fleet.execute(
            "DO $$ BEGIN WHILE pg_current_xact_id()::text::int < {last} + 5 LOOP COMMIT; END LOOP; END $$".replace(
                "{last}", str(last)
            )
        )
        elsewhere = meeting.connect()
        elsewhere.execute("SELECT FROM rows WHERE id = 90 FOR UPDATE")
        number = meeting.xmax("rows", 90)
        others = [meeting.connect() for _ in range(20)]
        for other in others:
            other.execute("SELECT FROM rows WHERE id = 91 FOR SHARE")
            if meeting.xmax("rows", 91) == number - 1:
                break
        for other in others[-2:]:
            other.execute("SELECT FROM task_instance WHERE id = %s FOR SHARE", (ti,))
        assert meeting.xmax("task_instance", ti) == number

        rows = look(meeting.connect())
        assert {(row["pid"], row["certain"]) for row in rows} == {(pid(other), True) for other in others[-2:]}
        for connection in (elsewhere, *others):
            connection.close()


class TestMany:
    def test_ten_thousand_held_by_one(self, fleet: Fleet, connection: Connection, connect: Connect) -> None:
        old, new = fleet.dag("d", versions=2)
        run = fleet.run("d")
        fleet.ti(run, new, "success")
        fleet.tis(run, old, ["scheduled"] * 100)
        fleet.copy_run(run, 99)
        fleet.execute("ANALYZE")
        other = connect()
        other.execute("SELECT FROM task_instance WHERE state = 'scheduled' FOR UPDATE")

        started = time.monotonic()
        rows = connection.execute("SELECT pid FROM dagbump.holders()").fetchall()
        assert time.monotonic() - started < 5
        assert rows == [(pid(other),)] * 10_000


class TestArguments:
    @pytest.mark.parametrize("argument", ["dag_run_ids", "dag_ids"])
    def test_null_inside(self, connection: Connection, argument: str) -> None:
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=f"{argument} must not contain NULL"):
            connection.execute(f"SELECT * FROM dagbump.holders({argument} => '{{NULL}}')".encode())

    def test_read_only(self, connection: Connection) -> None:
        connection.execute("SET TRANSACTION READ ONLY")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match="read-only transaction"):
            connection.execute("SELECT * FROM dagbump.holders()")


def test_details_of_other_roles_are_for_those_that_may_know(
    fleet: Fleet, connection: Connection, connect: Connect, role: str
) -> None:
    """holders sees what the owner of Airflow's tables sees; without pg_read_all_stats that is pid and names."""
    stale_run(fleet)
    name = sql.Identifier(role)
    statements = fleet.connection.execute(
        """
        SELECT format('ALTER TABLE %s OWNER TO dagbump_test_role', oid::regclass) FROM pg_class
        WHERE relkind = 'r' AND relnamespace IN ('public'::regnamespace, 'dagbump'::regnamespace)
        UNION ALL
        SELECT format('ALTER ROUTINE %s OWNER TO dagbump_test_role', oid::regprocedure) FROM pg_proc
        WHERE pronamespace = 'dagbump'::regnamespace
        UNION ALL
        SELECT 'ALTER SCHEMA dagbump OWNER TO dagbump_test_role'
        """
    ).fetchall()
    for (statement,) in statements:
        fleet.connection.execute(statement)
    fleet.connection.execute(sql.SQL("GRANT USAGE ON SCHEMA public, dagbump TO {}").format(name))
    with connect(application_name="of another role") as other:
        other.execute("SELECT FROM task_instance FOR UPDATE")
        (row,) = look(connection)
        assert (row["pid"], row["application_name"]) == (pid(other), "of another role")
        assert (row["state"], row["xact_start"], row["client_addr"]) == (None, None, None)

        fleet.connection.execute(sql.SQL("GRANT pg_read_all_stats TO {}").format(name))
        (row,) = look(connection)
        assert row["state"] == "idle in transaction"
        assert row["xact_start"] is not None


@pytest.mark.pair
@pytest.mark.parametrize("kind", ["psycopg", "Connection", "Session"])
def test_in_python(fleet: Fleet, database: URL, connect: Connect, kind: str) -> None:
    run, other_run = stale_run(fleet), stale_run(fleet, "other")
    holder = connect()
    holder.execute("SELECT FROM task_instance FOR UPDATE")
    engine = dagbump_database.create_engine(libpq(database))
    with ExitStack() as stack:
        connection: Any = (
            connect()
            if kind == "psycopg"
            else stack.enter_context(engine.connect() if kind == "Connection" else Session(engine))
        )
        rows = dagbump.holders(connection)
        assert sorted(row.dag_run_id for row in rows) == [run, other_run]
        (row,) = dagbump.holders(connection, [run], ["d"])
        assert isinstance(row, dagbump.Holder)
        assert (row.dag_id, row.held, row.pid, row.gid, row.certain) == ("d", "task_instance", pid(holder), None, True)
        assert row.xact_start is not None
        assert dagbump.holders(connection, []) == dagbump.holders(connection, dag_ids=[]) == ()


@pytest.mark.once
class TestCommandLine:
    def test_a_line_per_holder_and_run(self, fleet: Fleet, database: URL, connect: Connect) -> None:
        old, new = fleet.dag("d", versions=2)
        run = fleet.run("d")
        fleet.ti(run, new, "success")
        fleet.tis(run, old, ["scheduled"] * 3)
        holder = connect(application_name="a long report")
        holder.execute("SELECT FROM task_instance WHERE state = 'scheduled' FOR UPDATE")
        url = libpq(database)

        header, line = command(*DAGBUMP, "holders", "--url", url).stdout.splitlines()
        assert "one of several" not in header
        assert line.split()[2:4] == [str(pid(holder)), "idle"]
        assert "a long report" in line
        assert line.split()[-5:] == [str(run), "d", "run_1", "task_instance", "3"]
        rows = json.loads(command(*DAGBUMP, "holders", "--json", "--url", url).stdout)
        assert [(row["pid"], row["map_index"]) for row in rows] == [(pid(holder), -1)] * 3
        assert "one of several" in command(*DAGBUMP, "holders", "--wide", "--url", url).stdout

        *_, last = command(*DAGBUMP, "bump", "--url", url).stdout.splitlines()
        assert "left 3 task instances that other transactions have locked. The oldest holder is pid" in last
        assert f"pid {pid(holder)} (application 'a long report', role {holder.info.user}," in last
        assert last.endswith("; all: dagbump holders")

    def test_nothing_held(self, fleet: Fleet, database: URL) -> None:
        stale_run(fleet)
        done = command(*DAGBUMP, "holders", "--dag-id", "d", "--url", libpq(database))
        assert (done.returncode, done.stdout) == (0, "Nothing is locked in DAG d: no lock is in the way of bump.\n")

    def test_a_bump_does_its_work_where_nobody_may_ask(self, fleet: Fleet, database: URL, connect: Connect) -> None:
        stale_run(fleet)
        fleet.execute("DROP FUNCTION dagbump.holders")
        connect().execute("SELECT FROM task_instance FOR UPDATE")

        done = command(*DAGBUMP, "bump", "--url", libpq(database))
        assert done.returncode == 0
        assert (
            "left 1 task instance that other transactions have locked. Cannot find out who has locked them: "
            in done.stdout
        )


@pytest.mark.parametrize(
    ("seconds", "said"), [(-1, "0 s"), (0, "0 s"), (119.9, "119 s"), (120, "2 min"), (7200, "2 h"), (172800, "2 d")]
)
def test_an_age_in_words(seconds: float, said: str) -> None:
    began = datetime(2026, 1, 1, tzinfo=timezone.utc)
    assert age(began, began + timedelta(seconds=seconds)) == said
