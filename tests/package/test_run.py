"""`dagbump run`, the loop beside a stock scheduler: what it prints, through trouble, and how it ends."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import dagbump
import psycopg
import pytest
import sqlalchemy as sa
from dagbump.command_line.periodic_bump import Pace, PeriodicBump
from dagbump.command_line.signals import stopping_with
from dagbump.database import connect as connect_to
from dagbump.database import create_engine
from dagbump.embedded_postgres import EmbeddedPostgres
from dagbump.errors import InvalidUrl
from dagbump.installation import installer
from psycopg import sql
from sqlalchemy.engine import URL
from support import server
from support.fleet import Fleet, stale_run
from support.processes import DAGBUMP, RunningProcess, running, unread
from support.server import Connect, libpq
from support.waits import until

pytestmark = pytest.mark.once


QUICK = Pace(interval=0.1, patience=0.5)
PASSWORD = "of an operator"  # noqa: S105  (of roles that live for a test)
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"
# psycopg cannot be loaded: the environment of an Airflow, which brings psycopg2.
DRIVERS: dict[str, dict[str, str]] = {"psycopg": {}, "psycopg2": {"PSYCOPG_IMPL": "none"}}
WAITING = "application_name = 'dagbump' AND wait_event_type = 'Lock' AND datname = current_database()"


def waiting(fleet: Fleet) -> tuple[int] | None:
    return fleet.execute(f"SELECT pid FROM pg_stat_activity WHERE {WAITING}").fetchone()


def until_waiting(fleet: Fleet) -> tuple[int]:
    """Return the backend of a bump that waits for the table."""
    until(lambda: waiting(fleet), lambda: "the bump waits for the table")
    found = waiting(fleet)
    assert found is not None
    return found


def copy_airflow(source: URL, target: URL) -> None:
    """Copy Airflow's database to another server, and install dagbump there."""
    schema = server.run_client("pg_dump", source, "--no-owner")
    server.run_client("psql", target, "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=0", stdin=schema)
    installer.upgrade(create_engine(libpq(target)))


@pytest.fixture
def own_server() -> Iterator[EmbeddedPostgres]:
    with server.embedded() as embedded:
        yield embedded


@pytest.fixture
def operators(fleet: Fleet) -> Iterator[tuple[str, str]]:
    """Two roles that may log in, and bump."""
    names = ("dagbump_test_old", "dagbump_test_new")
    for name in names:
        fleet.execute(f"DROP ROLE IF EXISTS {name}")
        fleet.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
        fleet.execute(f"SELECT dagbump.grant_operator('{name}')")
    yield names
    for name in names:
        shut_out(fleet, name)
        fleet.execute(f"DROP OWNED BY {name}")
        fleet.execute(f"DROP ROLE {name}")


def shut_out(fleet: Fleet, role: str) -> None:
    fleet.execute(f"ALTER ROLE {role} NOLOGIN")
    fleet.execute(f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = '{role}'")


def name_in(configuration: Path, url: URL) -> None:
    value = libpq(url).replace("%", "%%")
    configuration.write_text(f"[database]\nsql_alchemy_conn = {value}\n")


def end_sessions(fleet: Fleet) -> None:
    fleet.execute(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        " WHERE application_name = 'dagbump' AND datname = current_database()"
    )


class Heard:
    """What a `PeriodicBump` reports."""

    def __init__(self) -> None:
        self.troubles: list[BaseException] = []

    def result(self, result: dagbump.BumpResult, seconds: float) -> None:
        raise AssertionError(result, seconds)

    def stands_by(self, other: str) -> None:
        raise AssertionError(other)

    def trouble(self, error: BaseException) -> None:
        self.troubles.append(error)

    def preview_failed(self, error: BaseException) -> None:
        raise AssertionError(error)

    def recovered(self) -> None:
        raise AssertionError


class TestRun:
    """`dagbump run`, the loop beside a stock scheduler."""

    def test_bumps_what_comes_and_prints_a_line_only_then(self, fleet: Fleet, database: URL) -> None:
        with running(*DAGBUMP, "run", "--interval", "0.1", DAGBUMP_URL=libpq(database)) as loop:
            loop.until_printed("one safe bump every 0.1 s")
            stale_run(fleet, "first")
            loop.until_printed("bumped 1 task instance in 1 run\n")
            stale_run(fleet, "second")
            loop.until_printed("bumped", times=2)
            loop.process.send_signal(signal.SIGTERM)
            assert loop.finish(timeout=5) == 0
        assert loop.count("bumped") == 2

    def test_says_once_that_a_run_waits_for_airflow_and_leaves_it(self, fleet: Fleet, database: URL) -> None:
        old, _ = fleet.dag("d", versions=2)
        waiting = fleet.ti(fleet.run("d"), old, "scheduled")
        with running(*DAGBUMP, "run", "--interval", "0.1", "--json", DAGBUMP_URL=libpq(database)) as loop:
            loop.until_printed("needs_verify")
            run = stale_run(fleet, "other")
            loop.until_printed('"other"')
            loop.process.send_signal(signal.SIGINT)
            assert loop.finish(timeout=5) == 0
        reports = [json.loads(line) for line in loop.lines if line.startswith("{")]
        assert [[row["dag_id"] for row in report["runs"]] for report in reports[:2]] == [["d"], ["d", "other"]]
        assert reports[1]["runs"][1]["dag_run_id"] == run
        assert len(reports) <= 3  # the third: the other run is done, the first waits on
        assert fleet.versions_of([waiting]) == [old]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize("driver", DRIVERS)
    def test_ends_within_a_second_even_while_the_database_keeps_it_waiting(
        self, fleet: Fleet, database: URL, connect: Connect, number: signal.Signals, driver: str
    ) -> None:
        stale_run(fleet)
        gate = connect()
        gate.execute("LOCK TABLE task_instance IN ACCESS EXCLUSIVE MODE")
        with running(*DAGBUMP, "run", DAGBUMP_URL=libpq(database), **DRIVERS[driver]) as loop:
            until_waiting(fleet)
            began = time.monotonic()
            loop.process.send_signal(number)
            assert loop.finish(timeout=5) == 0
            assert time.monotonic() - began < 1.0
        until(lambda: waiting(fleet) is None, lambda: "the server has cancelled it too")

    def test_survives_a_restart_of_the_server(self, own_server: EmbeddedPostgres, airflow_database: URL) -> None:
        copy_airflow(airflow_database, own_server.url)
        with running(*DAGBUMP, "run", "--interval", "0.1", DAGBUMP_URL=libpq(own_server.url)) as loop:
            loop.until_printed("one safe bump")
            with psycopg.connect(libpq(own_server.url), autocommit=True) as connection:
                stale_run(Fleet(connection), "before")
                loop.until_printed("bumped 1")
            own_server.restart()
            with psycopg.connect(libpq(own_server.url), autocommit=True) as connection:
                stale_run(Fleet(connection), "after")
                loop.until_printed("bumped 1", times=2)
            loop.until_printed("connected again")  # follows the line of the bump
            assert re.search(f"^{TIME} dagbump run: .*; trying again", "".join(loop.lines), re.MULTILINE)
            assert re.search(f"^{TIME} dagbump run: connected again", "".join(loop.lines), re.MULTILINE)
            loop.process.send_signal(signal.SIGTERM)
            assert loop.finish(timeout=5) == 0

    def test_says_that_a_run_waits_without_a_bump_that_was_none(self, fleet: Fleet, database: URL) -> None:
        old, _ = fleet.dag("d", versions=2)
        fleet.ti(fleet.run("d"), old, "scheduled")
        with running(*DAGBUMP, "run", "--interval", "0.1", DAGBUMP_URL=libpq(database)) as loop:
            loop.until_printed("left 1 run to the scheduler, whose verify_integrity is due\n")
            assert loop.count("bumped") == 0

    def test_ends_where_its_role_may_not_bump(self, fleet: Fleet, database: URL, role: str) -> None:
        fleet.execute("GRANT USAGE ON SCHEMA dagbump TO PUBLIC")
        fleet.execute("GRANT SELECT ON dagbump.installation TO PUBLIC")
        url = libpq(database.update_query_dict({"options": f"-crole={role}"}))
        with running(*DAGBUMP, "run", "--interval", "0.1", DAGBUMP_URL=url) as loop:
            loop.until_printed("permission denied")
            assert loop.finish(timeout=5) == 1

    def test_goes_on_with_nobody_reading_no_longer_than_to_its_next_line(self, fleet: Fleet, database: URL) -> None:
        with unread(*DAGBUMP, "run", "--interval", "0.1", DAGBUMP_URL=libpq(database)) as process:
            stale_run(fleet)
            _, errors = process.communicate(timeout=20)
        assert (process.returncode, "rror" in errors, "Traceback" in errors) == (0, False, False), errors


class TestPassingTrouble:
    """A temporary error is printed once, and so is its end. The loop goes on."""

    def goes_on(self, loop: RunningProcess, fleet: Fleet, said: str) -> None:
        loop.until_printed("dagbump run: connected again")
        stale_run(fleet, "after")
        loop.until_printed("bumped 1 task instance in 1 run")
        loop.process.send_signal(signal.SIGTERM)
        assert loop.finish(timeout=5) == 0
        assert re.search(f"^{TIME} dagbump run: .*{said}.*; trying again", "".join(loop.lines), re.MULTILINE)
        assert loop.count("trying again") == loop.count("connected again") == 1

    @pytest.mark.parametrize(
        ("option", "said"),
        [
            ("--lock-timeout", "due to lock timeout: table public.task_instance is locked by pid .*'a migration'"),
            ("--statement-timeout", "due to statement timeout"),
        ],
    )
    def test_timeouts_of_its_own_behind_a_locked_table(
        self, fleet: Fleet, database: URL, connect: Connect, option: str, said: str
    ) -> None:
        gate = connect(application_name="a migration")
        gate.execute("LOCK TABLE task_instance IN ACCESS EXCLUSIVE MODE")
        with running(*DAGBUMP, "run", "--interval", "0.1", option, "0.05", DAGBUMP_URL=libpq(database)) as loop:
            loop.until_printed("trying again")
            gate.rollback()
            self.goes_on(loop, fleet, said)

    @pytest.mark.parametrize(
        ("function", "said"),
        [("pg_cancel_backend", "due to user request"), ("pg_terminate_backend", "due to administrator command")],
    )
    def test_a_cancel_and_a_termination_by_somebody(
        self, fleet: Fleet, database: URL, connect: Connect, function: str, said: str
    ) -> None:
        gate = connect()
        gate.execute("LOCK TABLE task_instance IN ACCESS EXCLUSIVE MODE")
        with running(*DAGBUMP, "run", "--interval", "0.1", DAGBUMP_URL=libpq(database)) as loop:
            until_waiting(fleet)
            fleet.execute(f"SELECT {function}(pid) FROM pg_stat_activity WHERE {WAITING}")
            loop.until_printed("trying again")
            gate.rollback()
            self.goes_on(loop, fleet, said)

    def test_credentials_that_are_rotated_are_read_anew(
        self, fleet: Fleet, database: URL, operators: tuple[str, str], tmp_path: Path
    ) -> None:
        old, new = operators
        configuration = tmp_path / "airflow.cfg"
        name_in(configuration, database.set(username=old, password=PASSWORD))
        with running(*DAGBUMP, "run", "--interval", "0.1", AIRFLOW_CONFIG=str(configuration)) as loop:
            loop.until_printed("one safe bump")
            stale_run(fleet, "before")
            loop.until_printed("bumped")
            shut_out(fleet, old)
            loop.until_printed("trying again")
            name_in(configuration, database.set(username=new, password=PASSWORD))
            loop.until_printed("connected again")
            stale_run(fleet, "after")
            loop.until_printed("bumped", times=2)
        assert fleet.execute("SELECT bumped_by FROM dagbump.history ORDER BY bumped_at").fetchall() == [(old,), (new,)]

    def test_credentials_that_are_refused_for_too_long_end_it(
        self, fleet: Fleet, database: URL, operators: tuple[str, str]
    ) -> None:
        name, _ = operators
        shut_out(fleet, name)
        engine = create_engine(libpq(database.set(username=name, password=PASSWORD)))
        heard = Heard()
        bumping = PeriodicBump(lambda _: None, lambda _: connect_to(engine), QUICK, heard)
        with pytest.raises(dagbump.Unreachable, match="not permitted to log in") as ended:
            bumping.run()
        assert ended.value.exit_code == 3
        assert heard.troubles

    def test_a_url_that_cannot_be_read_any_more_ends_it(self, fleet: Fleet, database: URL) -> None:
        """Airflow's sql_alchemy_conn_cmd has worked, and now fails each time."""
        engine = create_engine(libpq(database))
        connections = iter([connect_to(engine)])

        def connect(_: object) -> sa.engine.Connection:
            for connection in connections:
                return connection
            raise InvalidUrl("Airflow could not read sql_alchemy_conn_cmd")

        class WhoLosesTheConnection(Heard):
            def result(self, result: dagbump.BumpResult, seconds: float) -> None:
                assert result.runs == ()
                assert seconds > 0
                end_sessions(fleet)

        heard = WhoLosesTheConnection()
        with pytest.raises(InvalidUrl):
            PeriodicBump(lambda _: None, connect, QUICK, heard, all_active=True).run()
        assert heard.troubles

    def test_a_failover_to_a_server_that_only_reads(self, fleet: Fleet, database: URL, connect: Connect) -> None:
        observer = connect(autocommit=True)
        only_reads = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}")
        name = sql.Identifier(str(database.database))
        observer.execute(only_reads.format(name, sql.SQL("on")))
        stale_run(fleet, "before")
        with running(*DAGBUMP, "run", "--interval", "0.1", DAGBUMP_URL=libpq(database)) as loop:
            loop.until_printed("trying again")
            observer.execute(only_reads.format(name, sql.SQL("off")))
            self.goes_on(loop, fleet, "this transaction is read-only")

    def test_a_migration_that_renames_the_table_for_a_moment(self, fleet: Fleet, database: URL) -> None:
        with running(*DAGBUMP, "run", "--interval", "0.1", DAGBUMP_URL=libpq(database)) as loop:
            stale_run(fleet)
            loop.until_printed("bumped 1")
            fleet.execute("ALTER TABLE task_instance RENAME TO away")
            loop.until_printed("trying again")
            fleet.execute("ALTER TABLE away RENAME TO task_instance")
            loop.until_printed("connected again")
            loop.process.send_signal(signal.SIGTERM)
            assert loop.finish(timeout=5) == 0

    def test_a_restore_during_which_dagbump_is_not_there(self, fleet: Fleet, database: URL) -> None:
        with running(*DAGBUMP, "run", "--interval", "0.1", DAGBUMP_URL=libpq(database)) as loop:
            stale_run(fleet)
            loop.until_printed("bumped 1")
            fleet.execute("DROP SCHEMA dagbump CASCADE")
            loop.until_printed("trying again")
            assert loop.count("dagbump upgrade") == 1
            installer.upgrade(create_engine(libpq(database)))
            loop.until_printed("connected again")
            loop.process.send_signal(signal.SIGTERM)
            assert loop.finish(timeout=5) == 0


class TestAttack:
    """Somebody does to the server what a loop must survive, and undoes it."""

    @pytest.fixture
    def loop(self, fleet: Fleet, database: URL, operators: tuple[str, str]) -> Iterator[RunningProcess]:
        """An operator's loop, which has bumped once."""
        url = libpq(database.set(username=operators[0], password=PASSWORD))
        with running(*DAGBUMP, "run", "--interval", "0.1", DAGBUMP_URL=url) as loop:
            loop.until_printed("one safe bump")
            stale_run(fleet, "before")
            loop.until_printed("bumped 1")
            yield loop

    def bumps_again(self, loop: RunningProcess, fleet: Fleet) -> None:
        stale_run(fleet, "after")
        loop.until_printed("bumped 1", times=2)
        loop.process.send_signal(signal.SIGTERM)
        assert loop.finish(timeout=5) == 0

    @pytest.mark.parametrize(
        ("attack", "undo", "said"),
        [
            ("ALTER ROLE {role} CONNECTION LIMIT 0", "ALTER ROLE {role} CONNECTION LIMIT -1", "too many connections"),
            (
                "ALTER DATABASE {db} CONNECTION LIMIT 0",
                "ALTER DATABASE {db} CONNECTION LIMIT -1",
                "too many connections",
            ),
            (
                "ALTER DATABASE {db} SET default_transaction_read_only = on",
                "ALTER DATABASE {db} RESET ALL",
                "read-only",
            ),
            (
                "SELECT dagbump.revoke_operator('{role}')",
                "SELECT dagbump.grant_operator('{role}')",
                "permission denied",
            ),
            (
                "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA dagbump FROM {role}",
                "SELECT dagbump.grant_operator('{role}')",
                "permission denied",
            ),
        ],
    )
    def test_that_is_undone(
        self,
        fleet: Fleet,
        database: URL,
        loop: RunningProcess,
        operators: tuple[str, str],
        attack: str,
        undo: str,
        said: str,
    ) -> None:
        names = {"role": operators[0], "db": database.database}
        fleet.execute(attack.format(**names))
        end_sessions(fleet)
        loop.until_printed(said)
        loop.until_printed("trying again")
        fleet.execute(undo.format(**names))
        self.bumps_again(loop, fleet)

    def test_no_connection_is_left(self, own_server: EmbeddedPostgres, airflow_database: URL) -> None:
        url = libpq(own_server.url)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET max_connections = 10")
        own_server.restart()
        copy_airflow(airflow_database, own_server.url)
        with (
            psycopg.connect(url, autocommit=True) as observer,
            running(*DAGBUMP, "run", "--interval", "0.1", DAGBUMP_URL=url) as loop,
            ExitStack() as crowd,
        ):
            stale_run(Fleet(observer), "before")
            loop.until_printed("bumped 1")

            def loop_is_out() -> int:
                with suppress(psycopg.OperationalError):
                    while True:
                        crowd.enter_context(psycopg.connect(url))
                end_sessions(Fleet(observer))
                return loop.count("too many clients")

            until(loop_is_out, lambda: "others have taken all connections")
            crowd.close()
            self.bumps_again(loop, Fleet(observer))

    def until_it_has_tried(self, loop: RunningProcess, attack: Callable[[], None]) -> None:
        """Wait until the loop has tried to connect after its sessions were ended."""
        troubles, recoveries = loop.count("trying again"), loop.count("connected again")
        attack()
        until(
            lambda: loop.count("trying again") > troubles + 1 or loop.count("connected again") > recoveries,
            lambda: f"it has tried to connect; so far:\n{''.join(loop.lines)}",
        )

    def test_no_file_can_be_opened(self, fleet: Fleet, loop: RunningProcess) -> None:
        """With one more file at each round: for no connection, for one but not for the SQL that it asks with, …"""
        for number, limit in enumerate(range(3, 11), start=2):
            _, most = resource.prlimit(loop.process.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(loop.process.pid, resource.RLIMIT_NOFILE, (limit, most))
            self.until_it_has_tried(loop, partial(end_sessions, fleet))
            resource.prlimit(loop.process.pid, resource.RLIMIT_NOFILE, (most, most))
            stale_run(fleet, f"after {limit}")
            loop.until_printed("bumped 1", times=number)

    def test_all_sessions_are_ended_again_and_again(self, fleet: Fleet, loop: RunningProcess) -> None:
        for times in range(1, 6):
            end_sessions(fleet)
            loop.until_printed("connected again", times=times)
        self.bumps_again(loop, fleet)


class TestServerThatHangs:
    """Its kernel still answers, so TCP notices nothing, and its own timeouts do not run."""

    @pytest.mark.slow
    @pytest.mark.parametrize("driver", DRIVERS)
    def test_in_a_bump(self, own_server: EmbeddedPostgres, airflow_database: URL, driver: str) -> None:
        copy_airflow(airflow_database, own_server.url)
        url = libpq(own_server.url)
        words = (*DAGBUMP, "run", "--interval", "0.1", "--lock-timeout", "0", "--statement-timeout", "2")
        with (
            psycopg.connect(url, autocommit=True) as observer,
            psycopg.connect(url) as gate,
            running(*words, DAGBUMP_URL=url, **DRIVERS[driver]) as loop,
        ):
            gate.execute("LOCK TABLE task_instance IN ACCESS EXCLUSIVE MODE")
            (backend,) = until_waiting(Fleet(observer))
            os.kill(backend, signal.SIGSTOP)
            try:
                gate.rollback()
                stale_run(Fleet(observer))
                loop.until_printed("trying again")
                loop.until_printed("bumped 1")
            finally:
                os.kill(backend, signal.SIGCONT)

    @pytest.mark.slow
    @pytest.mark.parametrize("driver", DRIVERS)
    def test_at_the_start(self, own_server: EmbeddedPostgres, airflow_database: URL, driver: str) -> None:
        copy_airflow(airflow_database, own_server.url)
        url = libpq(own_server.url)
        words = (*DAGBUMP, "run", "--statement-timeout", "1")
        with psycopg.connect(url, autocommit=True) as observer, psycopg.connect(url) as gate:
            gate.execute("LOCK TABLE dagbump.installation IN ACCESS EXCLUSIVE MODE")
            with running(*words, DAGBUMP_URL=url, **DRIVERS[driver]) as loop:
                (backend,) = until_waiting(Fleet(observer))
                os.kill(backend, signal.SIGSTOP)
                try:
                    gate.rollback()
                    assert loop.finish(timeout=20) == 3
                finally:
                    os.kill(backend, signal.SIGCONT)

    @pytest.mark.slow
    def test_in_the_first_queries_of_a_connection(self, own_server: EmbeddedPostgres, airflow_database: URL) -> None:
        copy_airflow(airflow_database, own_server.url)
        stopped: list[int] = []

        def connect(opened: Callable[[Any], None]) -> sa.engine.Connection:
            def hang_once(driver_connection: Any) -> None:
                opened(driver_connection)
                if not stopped:
                    stopped.append(driver_connection.info.backend_pid)
                    os.kill(stopped[0], signal.SIGSTOP)

            return connect_to(create_engine(libpq(own_server.url), opened=hang_once))

        class WhoStops(Heard):
            def result(self, result: dagbump.BumpResult, seconds: float) -> None:  # noqa: ARG002  (a Reporter's)
                assert result.runs == ()

            def recovered(self) -> None:
                bumping.stop()

        heard = WhoStops()
        bumping = PeriodicBump(lambda _: None, connect, Pace(interval=0.1, statement_timeout=1), heard)
        try:
            bumping.run()
        finally:
            os.kill(stopped[0], signal.SIGCONT)
        assert len(heard.troubles) == 1

    @pytest.mark.slow
    def test_in_the_session_of_the_lock(self, own_server: EmbeddedPostgres, airflow_database: URL) -> None:
        copy_airflow(airflow_database, own_server.url)
        url = libpq(own_server.url)
        holder = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted"
        with (
            psycopg.connect(url, autocommit=True) as observer,
            running(*DAGBUMP, "run", "--interval", "0.1", "--statement-timeout", "1", DAGBUMP_URL=url) as loop,
        ):
            stale_run(Fleet(observer), "before")
            loop.until_printed("bumped 1")
            ((backend,),) = observer.execute(holder).fetchall()
            os.kill(backend, signal.SIGSTOP)
            try:
                loop.until_printed(f"standing by, because another copy is active: pid {backend}")
            finally:
                os.kill(backend, signal.SIGCONT)
            stale_run(Fleet(observer), "after")
            loop.until_printed("bumped 1", times=2)


class TestEnd:
    """The command always ends within a second."""

    @pytest.mark.parametrize("driver", DRIVERS)
    def test_while_the_server_hangs(self, own_server: EmbeddedPostgres, airflow_database: URL, driver: str) -> None:
        copy_airflow(airflow_database, own_server.url)
        with (
            psycopg.connect(libpq(own_server.url), autocommit=True) as observer,
            psycopg.connect(libpq(own_server.url)) as gate,
            running(*DAGBUMP, "run", DAGBUMP_URL=libpq(own_server.url), **DRIVERS[driver]) as loop,
        ):
            gate.execute("LOCK TABLE task_instance IN ACCESS EXCLUSIVE MODE")
            (backend,) = until_waiting(Fleet(observer))
            stopped = (own_server.postmaster_pid(), backend)
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            try:
                self.ends(loop)
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)

    @pytest.mark.parametrize("driver", DRIVERS)
    def test_while_connecting_hangs(self, driver: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d"
            with running(*DAGBUMP, "run", DAGBUMP_URL=url, **DRIVERS[driver]) as loop:
                silent.settimeout(20)
                connected, _ = silent.accept()
                with connected:
                    self.ends(loop)

    def test_while_it_is_being_imported(self) -> None:
        words = (sys.executable, "-X", "importtime", "-m", "dagbump", "run")
        with running(*words, DAGBUMP_URL="postgresql://127.0.0.1:1/d") as loop:
            loop.until_printed("sqlalchemy.util")
            self.ends(loop)
            assert loop.count("cannot connect") == 0

    def ends(self, loop: RunningProcess) -> None:
        began = time.monotonic()
        loop.process.send_signal(signal.SIGTERM)
        assert loop.finish(timeout=10) == 0
        assert time.monotonic() - began < 1.0

    def test_a_second_signal_is_the_systems_own(self) -> None:
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = [signal.getsignal(number) for number in numbers]
        asked = threading.Event()
        with stopping_with(asked.set):
            signal.raise_signal(signal.SIGTERM)
            assert asked.is_set()
            assert [signal.getsignal(number) for number in numbers] == [signal.SIG_DFL] * 2
        assert [signal.getsignal(number) for number in numbers] == before
