"""`dagbump.repair`: it moves everything that may be moved, in small transactions, even if the database changes
meanwhile.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any
from uuid import UUID

import psycopg
import pytest
from dagbump import database as dagbump_database
from dagbump.installation import installer
from psycopg import sql
from sqlalchemy.engine import URL
from support import server
from support.fleet import Fleet, stale_run
from support.processes import DAGBUMP, clean_environment, command, on_terminal, running
from support.server import CLIENT_PROGRAMS, Connect, libpq
from support.waits import until, until_waiting_for_lock

pytestmark = pytest.mark.server

Connection = psycopg.Connection[Any]

# Once so many TIs have moved, whoever has this application_name waits for as long as somebody holds advisory lock 1.
GATE = """
    CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF current_setting('application_name') = 'gated'
            AND (SELECT coalesce(sum(bumped), 0) FROM dagbump.history) >= {moved} THEN
            PERFORM pg_advisory_xact_lock_shared(1);
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER gate BEFORE UPDATE ON task_instance FOR EACH ROW EXECUTE FUNCTION gate();
"""


@contextmanager
def gated_repair(fleet: Fleet, url: str, batch_size: int, moved: int) -> Iterator[list[str]]:
    """Start a repair that waits in the middle of a batch, after so many TIs, while the body runs. Yield its NOTICEs."""
    fleet.connection.execute(GATE.format(moved=moved).encode())
    told: list[str] = []

    def work() -> None:
        try:
            told.extend(call(gated, f"CALL dagbump.repair(batch_size => {batch_size})"))
        except psycopg.Error as error:
            told.append(f"failed: {error}")

    with closing(psycopg.connect(url)) as gate:
        gate.execute("SELECT pg_advisory_lock(1)")
        with closing(psycopg.connect(url, autocommit=True, application_name="gated")) as gated:
            thread = threading.Thread(target=work)
            thread.start()
            until_waiting_for_lock(fleet.connection, gated)
            yield told
            with suppress(psycopg.OperationalError):  # where the server was stopped
                gate.execute("SELECT pg_advisory_unlock(1)")
            thread.join()


def verified_run(fleet: Fleet, tis: int, dag_id: str = "d") -> tuple[UUID, list[UUID]]:
    """Make a run with so many stale TIs; return the latest version and them."""
    old, new = fleet.dag(dag_id, versions=2)
    run = fleet.run(dag_id)
    fleet.ti(run, new, "success")
    return new, fleet.tis(run, old, ["queued"] * tis)


def call(connection: Connection, statement: str = "CALL dagbump.repair()") -> list[str]:
    """Run a repair; return its NOTICEs."""
    notices: list[str] = []
    handler = lambda diagnostic: notices.append(diagnostic.message_primary or "")  # noqa: E731
    connection.add_notice_handler(handler)
    connection.execute(statement.encode())
    connection.remove_notice_handler(handler)
    return notices


def batches(fleet: Fleet) -> list[int]:
    """Return how many TIs each transaction has moved."""
    rows = fleet.execute("SELECT sum(bumped)::int FROM dagbump.history GROUP BY xmin::text ORDER BY min(bumped_at)")
    return [moved for (moved,) in rows]


@pytest.fixture
def caller(connect: Connect) -> Connection:
    """A connection in autocommit; any wait for a lock fails it."""
    connection = connect(autocommit=True)
    connection.execute("SET lock_timeout = '50ms'")
    return connection


@pytest.mark.pair
class TestBatches:
    @pytest.mark.usefixtures("either_way")
    def test_at_most_so_many_within_a_run_and_over_several(self, fleet: Fleet, caller: Connection) -> None:
        tis: dict[UUID, UUID] = {}
        for dag_id, count in (("big", 10), ("a", 1), ("b", 1), ("c", 2), ("d", 5)):
            version, made = verified_run(fleet, count, dag_id)
            tis |= dict.fromkeys(made, version)

        notices = call(caller, "CALL dagbump.repair(batch_size => 4)")

        assert fleet.versions_of(tis) == list(tis.values())
        assert batches(fleet) == [4, 4, 4, 4, 3]
        assert [notice.split(":")[1].split()[0] for notice in notices[:-1]] == ["4", "8", "12", "16", "19"]
        assert "12 task instances moved; 3 of 5 runs done" in notices[2]
        assert "done: 19 task instances moved; 0 left, locked by another transaction; 0 runs" in notices[-1]

    def test_more_runs_than_a_batch_looks_at(self, fleet: Fleet, caller: Connection) -> None:
        run = stale_run(fleet)
        fleet.copy_run(run, 249)
        assert "done: 250 task instances moved" in call(caller)[-1]
        assert batches(fleet) == [100, 100, 50]

    def test_only_the_dags_that_are_named(self, fleet: Fleet, caller: Connection) -> None:
        versions = {dag_id: verified_run(fleet, 2, dag_id) for dag_id in "abc"}
        call(caller, "CALL dagbump.repair('{a,c}')")
        moved = {dag_id: fleet.versions_of(tis) == [new, new] for dag_id, (new, tis) in versions.items()}
        assert moved == {"a": True, "b": False, "c": True}
        assert "done: 0 task" in call(caller, "CALL dagbump.repair('{}')")[-1]

    def test_nothing_to_do(self, fleet: Fleet, caller: Connection) -> None:
        _, new = fleet.dag("d", versions=2)
        fleet.ti(fleet.run("d"), new, "queued")
        (notice,) = call(caller)
        assert "done: 0 task instances moved" in notice

    def test_a_version_that_lands_meanwhile_leaves_the_rest_to_airflow(self, fleet: Fleet, database: URL) -> None:
        """The repair finishes the run. For the newest version, the run is unverified."""
        new, tis = verified_run(fleet, 3)
        with gated_repair(fleet, libpq(database), batch_size=1, moved=1):
            newest = fleet.version("d", 3)
        versions = fleet.versions_of(tis)
        assert (versions.count(new), versions.count(newest)) == (2, 0)


@pytest.mark.pair
class TestWhatIsMoved:
    """A repair moves what the safe form moves, and TIs without a version in pinned runs. It moves nothing else."""

    OBSTACLES: Sequence[tuple[dict[str, Any], dict[str, Any]]] = (
        ({"is_paused": True}, {}),
        ({"is_stale": True}, {}),
        ({}, {"state": "queued"}),
        ({}, {"state": "success"}),
        ({}, {"run_after": sql.SQL("now() + interval '1 hour'")}),
        ({}, {"bundle_version": "abc"}),
    )

    @pytest.mark.parametrize(("dag", "run"), OBSTACLES)
    def test_runs_that_are_not_examined_are_left(
        self, fleet: Fleet, caller: Connection, dag: dict[str, Any], run: dict[str, Any]
    ) -> None:
        old, new = fleet.dag("d", versions=2, **dag)
        id_ = fleet.run("d", **run)
        fleet.ti(id_, new, "success")
        ti = fleet.ti(id_, old, "queued")

        call(caller)
        caller.execute("SELECT dagbump.repair_batch(%s, 1000)", ([id_],))
        assert fleet.versions_of([ti]) == [old]

    def test_unverified_runs_are_left_and_counted(self, fleet: Fleet, caller: Connection) -> None:
        old, _ = fleet.dag("d", versions=2)
        runs = [fleet.run("d") for _ in range(3)]
        tis = [fleet.ti(run, old, "queued") for run in runs]
        stale_run(fleet, "other")

        notices = call(caller)
        caller.execute("SELECT dagbump.repair_batch(%s, 1000)", (runs,))
        assert "1 task instances moved; 0 left, locked by another transaction; 3 runs left to Airflow" in notices[-1]
        assert fleet.versions_of(tis) == [old] * 3

    @pytest.mark.usefixtures("either_way")
    def test_versionless_tis_of_pinned_runs_get_the_runs_own_version(self, fleet: Fleet, caller: Connection) -> None:
        first, own, latest = fleet.dag("d", versions=3)
        run = fleet.run("d", bundle_version="abc", created_dag_version_id=own)
        versionless = fleet.tis(run, None, ["queued", None])
        others = [fleet.ti(run, None, "success"), fleet.ti(run, first, "queued"), fleet.ti(run, latest, "queued")]

        assert "done: 2 task instances moved" in call(caller)[-1]
        assert fleet.versions_of(versionless) == [own, own]
        assert fleet.versions_of(others) == [None, first, latest]
        row = fleet.execute(
            "SELECT dag_version_id, version_number, bumped, from_versions FROM dagbump.history"
        ).fetchone()
        versions = [{"dag_version_id": None, "version_number": None, "task_instances": 2}]
        assert row == (own, 2, 2, versions)

    def test_not_where_that_version_is_gone_or_of_another_dag(self, fleet: Fleet, caller: Connection) -> None:
        (others,) = fleet.dag("other", versions=1)
        fleet.dag("d", versions=2)
        tis = [
            fleet.ti(fleet.run("d", bundle_version="abc", created_dag_version_id=version), None, "queued")
            for version in (None, others)
        ]
        call(caller)
        assert fleet.versions_of(tis) == [None, None]

    def test_pinned_runs_are_repaired_in_batches_too(self, fleet: Fleet, caller: Connection) -> None:
        (own,) = fleet.dag("d", versions=1)
        run = fleet.run("d", bundle_version="abc", created_dag_version_id=own)
        fleet.tis(run, None, ["queued"] * 5)
        call(caller, "CALL dagbump.repair(batch_size => 2)")
        assert batches(fleet) == [2, 2, 1]


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ("batch_size => 0", "batch_size must be 1 or more, and is 0"),
            ("batch_size => -1", "batch_size must be 1 or more, and is -1"),
            ("batch_size => NULL", "batch_size must be 1 or more, and is NULL"),
            ("dag_ids => '{a,NULL}'", "dag_ids must not contain NULL"),
        ],
    )
    def test_that_mean_nothing_are_refused(self, caller: Connection, arguments: str, said: str) -> None:
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=said):
            caller.execute(f"CALL dagbump.repair({arguments})".encode())

    def test_a_transaction_block_is_explained(self, fleet: Fleet, connection: Connection) -> None:
        _, tis = verified_run(fleet, 1)
        before = fleet.versions_of(tis)
        with pytest.raises(psycopg.errors.InvalidTransactionTermination, match="commits after each batch") as raised:
            connection.execute("CALL dagbump.repair()")
        assert "outside of a transaction block" in (raised.value.diag.message_hint or "")
        connection.rollback()
        assert fleet.versions_of(tis) == before

    def test_the_manual_shows_how_to_call_it(self, caller: Connection) -> None:
        lines = [line for (line,) in caller.execute("SELECT dagbump.help('repair')")]
        assert lines[0] == "CALL dagbump.repair("
        assert lines[1:4] == ["    dag_ids text[] DEFAULT NULL::text[],", "    batch_size integer DEFAULT 300", ")"]
        listed = {line for (line,) in caller.execute("SELECT dagbump.help()")}
        assert "SELECT dagbump.help('repair');" in listed
        assert "SELECT dagbump.help('repair_batch');" not in listed


class TestOthers:
    """A repair does not wait for transactions with locks, and moves all other TIs."""

    def test_what_is_held_is_left_and_the_rest_is_moved(
        self, fleet: Fleet, caller: Connection, connect: Connect
    ) -> None:
        new, tis = verified_run(fleet, 5)
        other = connect()
        other.execute("SELECT FROM task_instance WHERE id = %s FOR UPDATE", (tis[2],))

        notices = call(caller, "CALL dagbump.repair(batch_size => 2)")
        assert fleet.versions_of(tis).count(new) == 4
        assert "4 task instances moved; 1 left, locked by another transaction" in notices[-1]

        other.rollback()
        assert "1 task instances moved; 0 left" in call(caller)[-1]
        assert fleet.versions_of(tis) == [new] * 5

    def test_a_version_that_is_held(self, fleet: Fleet, caller: Connection, connect: Connect) -> None:
        held, _ = verified_run(fleet, 3, "held")
        new, tis = verified_run(fleet, 3, "free")
        connect().execute("SELECT FROM dag_version WHERE id = %s FOR UPDATE", (held,))
        assert "3 task instances moved; 3 left, locked by another transaction" in call(caller)[-1]
        assert fleet.versions_of(tis) == [new] * 3

    def test_what_was_held_and_is_free_before_the_end_is_moved_by_another_pass(
        self, fleet: Fleet, connect: Connect, database: URL
    ) -> None:
        new, tis = verified_run(fleet, 2, "first")
        verified_run(fleet, 2, "last")
        holder = connect()
        holder.execute("SELECT FROM task_instance WHERE id = %s FOR UPDATE", (tis[0],))
        with gated_repair(fleet, libpq(database), batch_size=2, moved=2) as notices:
            assert fleet.versions_of(tis).count(new) == 1
            holder.rollback()
        assert fleet.versions_of(tis) == [new, new]
        assert "4 task instances moved; 0 left" in notices[-1]

    def test_two_at_once_share_the_work(self, fleet: Fleet, caller: Connection, database: URL) -> None:
        """One waits in the middle of its first batch. The other moves what is not locked. Together they move
        everything.
        """
        new, tis = verified_run(fleet, 10)
        with gated_repair(fleet, libpq(database), batch_size=4, moved=0) as notices:
            others = call(caller, "CALL dagbump.repair(batch_size => 4)")
        assert "6 task instances moved; 4 left, locked by another transaction" in others[-1]
        assert "4 task instances moved; 0 left" in notices[-1]
        assert fleet.versions_of(tis) == [new] * 10
        assert sum(batches(fleet)) == 10

    def test_who_updates_the_same_tis_waits_for_a_batch_at_most(
        self, fleet: Fleet, caller: Connection, database: URL
    ) -> None:
        """Each COMMIT releases the locks. While the second batch waits, the TIs of the first batch are free."""
        new, _ = verified_run(fleet, 3)
        with gated_repair(fleet, libpq(database), batch_size=1, moved=1):
            caller.execute(
                "UPDATE task_instance SET state = 'running' WHERE dag_version_id = %s AND state = 'queued'", (new,)
            )
            skipped = caller.execute("SELECT id FROM task_instance FOR UPDATE SKIP LOCKED").fetchall()
            assert len(skipped) == 3  # of four: one is in the batch


class TestCancelled:
    """However a repair ends, whole batches are done, and the next call goes on."""

    def resumed(self, fleet: Fleet, caller: Connection, new: UUID, tis: list[UUID], done: int) -> None:
        assert (fleet.versions_of(tis).count(new), sum(batches(fleet))) == (done, done)
        call(caller)
        assert fleet.versions_of(tis) == [new] * len(tis)
        assert sum(batches(fleet)) == len(tis)

    @pytest.mark.parametrize("function", ["pg_cancel_backend", "pg_terminate_backend"])
    def test_by_the_server(self, fleet: Fleet, caller: Connection, database: URL, function: str) -> None:
        new, tis = verified_run(fleet, 12)
        with gated_repair(fleet, libpq(database), batch_size=2, moved=6) as told:
            backends = (
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'gated' AND datname = current_database()"
            )
            fleet.connection.execute(f"SELECT {function}(pid) FROM ({backends}) AS gated".encode())
            until(lambda: told, lambda: "the repair fails")
        assert told[0].startswith("failed:")
        self.resumed(fleet, caller, new, tis, done=6)

    def test_by_the_end_of_the_client(self, fleet: Fleet, caller: Connection, connect: Connect, database: URL) -> None:
        """The server notices the loss when it sends the next message, which is after a whole batch."""
        new, tis = verified_run(fleet, 12)
        fleet.connection.execute(GATE.format(moved=6).encode())
        gate = connect()
        gate.execute("SELECT pg_advisory_lock(1)")
        words = [str(CLIENT_PROGRAMS / "psql"), "--no-psqlrc", libpq(database), "-c", "CALL dagbump.repair(NULL, 2)"]
        with subprocess.Popen(words, env=clean_environment(PGAPPNAME="gated"), stderr=subprocess.DEVNULL) as psql:
            waiting = "SELECT pid FROM pg_stat_activity WHERE application_name = 'gated' AND wait_event_type = 'Lock'"
            until(lambda: fleet.execute(waiting).fetchone(), lambda: "the batch waits at the gate")
            (pid,) = fleet.execute(waiting).fetchone() or (None,)
            os.kill(psql.pid, signal.SIGKILL)
        gate.execute("SELECT pg_advisory_unlock(1)")
        until(
            lambda: not fleet.execute("SELECT FROM pg_stat_activity WHERE pid = %s", pid).fetchall(),
            lambda: "its backend has ended",
        )
        self.resumed(fleet, caller, new, tis, done=sum(batches(fleet)))

    @pytest.mark.once
    def test_by_a_server_that_stops_at_once(self, database: URL) -> None:
        with server.embedded() as embedded:
            url = libpq(embedded.url)
            script = server.run_client("pg_dump", database, "--no-owner", "--schema=public")
            server.run_client("psql", embedded.url, "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=0", stdin=script)
            installer.upgrade(dagbump_database.create_engine(url))
            with closing(psycopg.connect(url, autocommit=True)) as admin:
                new, tis = verified_run(Fleet(admin), 12)
                with gated_repair(Fleet(admin), url, batch_size=2, moved=6) as told:
                    os.kill(embedded.postmaster_pid(), signal.SIGQUIT)  # immediate: as a crash
                    until(lambda: told, lambda: "the repair fails")
            assert told[0].startswith("failed:")
            embedded.restart()
            with closing(psycopg.connect(url, autocommit=True)) as admin:
                self.resumed(Fleet(admin), admin, new, tis, done=6)


class TestRights:
    GRANTS = (
        "GRANT USAGE ON SCHEMA dagbump TO {role}; GRANT EXECUTE ON PROCEDURE dagbump.repair TO {role}; "
        "GRANT EXECUTE ON FUNCTION dagbump.repairable, dagbump.repair_batch TO {role}"
    )

    def test_a_role_that_may_only_repair_can(self, fleet: Fleet, caller: Connection, role: str) -> None:
        new, tis = verified_run(fleet, 3)
        fleet.connection.execute(self.GRANTS.format(role=role).encode())
        caller.execute(f"SET ROLE {role}".encode())
        call(caller, "CALL dagbump.repair(batch_size => 2)")
        assert fleet.versions_of(tis) == [new] * 3
        for statement in ("UPDATE public.task_instance SET state = NULL", "DELETE FROM dagbump.history"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                caller.execute(statement.encode())


@pytest.mark.once
class TestCommand:
    def test_dry_run_says_what_there_is_to_do_and_writes_nothing(self, fleet: Fleet, database: URL) -> None:
        new, tis = verified_run(fleet, 3)
        old, _ = fleet.dag("paused", versions=2, is_paused=True)
        fleet.ti(fleet.run("paused"), old, "queued")
        done = command(*DAGBUMP, "repair", "--dry-run", DAGBUMP_URL=libpq(database))
        assert (done.returncode, done.stderr) == (0, "")
        assert "To move: 3 task instances in 1 run." in done.stdout
        assert "Unpause the DAG, if the run is to go on." in done.stdout
        assert "bump:" not in done.stdout  # what it would move is not left
        assert new not in fleet.versions_of(tis)

    def test_without_a_terminal_it_wants_a_yes(self, fleet: Fleet, database: URL) -> None:
        new, tis = verified_run(fleet, 3)
        refused = command(*DAGBUMP, "repair", DAGBUMP_URL=libpq(database))
        assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
        done = command(*DAGBUMP, "repair", "--yes", "--batch-size", "2", DAGBUMP_URL=libpq(database))
        assert (done.returncode, done.stdout, done.stderr) == (0, "Done: 3 task instances moved in 1 run.\n", "")
        assert fleet.versions_of(tis) == [new] * 3
        assert batches(fleet) == [2, 1]

    @pytest.mark.parametrize(("answer", "moved"), [("n", 0), ("y", 3)])
    def test_on_a_terminal_it_asks_and_shows_how_far_it_is(
        self, fleet: Fleet, database: URL, answer: str, moved: int
    ) -> None:
        new, tis = verified_run(fleet, 3)
        done = on_terminal(*DAGBUMP, "repair", typed=f"{answer}\n", DAGBUMP_URL=libpq(database))
        assert "Move 3 task instances in 1 run, at most 300 in a transaction?" in done.stdout
        assert fleet.versions_of(tis).count(new) == moved
        assert (done.returncode, "3/3" in done.stdout) == (0 if moved else 1, moved == 3)

    def test_what_is_left_has_its_reason(self, fleet: Fleet, database: URL, connect: Connect) -> None:
        _, tis = verified_run(fleet, 2)
        old, _ = fleet.dag("unverified", versions=2)
        fleet.ti(fleet.run("unverified"), old, "queued")
        connect().execute("SELECT FROM task_instance WHERE id = %s FOR UPDATE", (tis[0],))
        words = (*DAGBUMP, "repair", "--yes")
        done = command(*words, DAGBUMP_URL=libpq(database))
        assert re.search(r"^bump: .*except those that another transaction has locked", done.stdout, re.MULTILINE)
        assert "The oldest holder is" in done.stdout
        assert re.search(r"^needs_verify: The DAG has a new version", done.stdout, re.MULTILINE)

        answer = json.loads(command(*words, "--json", DAGBUMP_URL=libpq(database)).stdout)
        assert (answer["moved"], answer["runs"]) == (0, 0)
        assert {row["verdict"]: row["stale"] for row in answer["left"]} == {"bump": 1, "needs_verify": 1}

    def test_no_question_where_there_is_nothing_to_do(self, database: URL) -> None:
        done = on_terminal(*DAGBUMP, "repair", DAGBUMP_URL=libpq(database))
        assert (done.returncode, done.stdout) == (0, "Done: 0 task instances moved in 0 runs.\n")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_lets_the_batch_end_and_the_same_command_goes_on(
        self, fleet: Fleet, database: URL, connect: Connect, number: int
    ) -> None:
        new, tis = verified_run(fleet, 12)
        fleet.connection.execute(GATE.format(moved=4).encode())
        gate = connect()
        gate.execute("SELECT pg_advisory_lock(1)")
        words = (*DAGBUMP, "repair", "--yes", "--batch-size", "2")
        with running(*words, DAGBUMP_URL=libpq(database), PGAPPNAME="gated") as repair:
            waiting = "SELECT FROM pg_stat_activity WHERE application_name = 'gated' AND wait_event_type = 'Lock'"
            until(lambda: fleet.execute(waiting).fetchall(), lambda: "a batch waits at the gate")
            repair.process.send_signal(number)
            gate.execute("SELECT pg_advisory_unlock(1)")
            assert repair.finish(timeout=30) == 1
        assert repair.count("Interrupted: 6 task instances moved in 1 run; the same command goes on.") == 1
        assert repair.count("Left alone") == 1
        assert fleet.versions_of(tis).count(new) == 6
        assert "Done: 6 task instances" in command(*words, DAGBUMP_URL=libpq(database)).stdout
        assert fleet.versions_of(tis) == [new] * 12

    def test_what_is_free_at_last_is_moved_by_another_pass(self, fleet: Fleet, database: URL, connect: Connect) -> None:
        new, tis = verified_run(fleet, 2, "first")
        verified_run(fleet, 2, "last")
        fleet.connection.execute(GATE.format(moved=2).encode())
        gate, holder = connect(), connect()
        gate.execute("SELECT pg_advisory_lock(1)")
        holder.execute("SELECT FROM task_instance WHERE id = %s FOR UPDATE", (tis[0],))
        words = (*DAGBUMP, "repair", "--yes", "--batch-size", "2")
        with running(*words, DAGBUMP_URL=libpq(database), PGAPPNAME="gated") as repair:
            waiting = "SELECT FROM pg_stat_activity WHERE application_name = 'gated' AND wait_event_type = 'Lock'"
            until(lambda: fleet.execute(waiting).fetchall(), lambda: "a batch waits at the gate")
            holder.rollback()
            gate.execute("SELECT pg_advisory_unlock(1)")
            assert repair.finish(timeout=30) == 0
        assert fleet.versions_of(tis) == [new, new]
        assert repair.count("Done: 4 task instances moved in 2 runs.") == 1
