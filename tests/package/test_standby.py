"""On a hot standby, commands that read work as on the primary. Commands that write name the way out."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import dagbump
import psycopg
import pytest
import sqlalchemy as sa
from dagbump import client, database
from dagbump.installation import installer
from support import airflow_tables, example_fleet, replication
from support.fleet import Fleet
from support.processes import ALEMBIC, DAGBUMP, command, running
from support.replication import Cluster, Node
from support.waits import until

pytestmark = [pytest.mark.once, pytest.mark.slow]

NAME = "airflow"
SAID = "a hot standby"
ADVICE = "Connect to the primary"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with Airflow's tables, dagbump, and a fleet of which there is something to tell."""
    with replication.cluster() as servers:
        servers.primary.execute(f"CREATE DATABASE {NAME}")
        url = of(servers.primary)
        airflow_tables.make(sa.engine.make_url(url), tmp_path_factory.mktemp("airflow"))
        installer.upgrade(database.create_engine(url))
        with connected(servers.primary) as connection:
            fleet = Fleet(connection)
            example_fleet.make(fleet)
            dagbump.bump(connection, dag_ids=["reports"])
            fleet.dag("lacks a task")
            only = fleet.version("lacks a task", 1, tasks=["there", "missing"])
            fleet.ti(fleet.run("lacks a task"), only, "success", task_id="there")
            connection.execute("ANALYZE")
        servers.catch_up()
        yield servers


def of(node: Node) -> str:
    return node.database(NAME)


@contextmanager
def connected(node: Node) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(of(node), autocommit=True) as connection:
        yield connection


class TestWhatReads:
    @pytest.mark.parametrize(
        "call",
        [
            dagbump.preview,
            dagbump.holders,
            dagbump.versions,
            dagbump.history,
            client.running,
            client.repairable,
            client.versions_by_day,
            lambda connection: client.tasks_of_run(connection, 5),
            lambda connection: client.versions_of_runs(connection, [1, 2, 3]),
            lambda connection: client.verify_scope(connection, [1, 2, 3]),
        ],
    )
    def test_answers_as_on_the_primary(
        self, cluster: Cluster, call: Callable[[psycopg.Connection[Any]], object]
    ) -> None:
        with connected(cluster.primary) as primary, connected(cluster.standby) as standby:
            answer = call(primary)
            assert call(standby) == answer
            assert answer or call is dagbump.holders

    def test_check_says_what_the_server_is(self, cluster: Cluster) -> None:
        with connected(cluster.primary) as primary, connected(cluster.standby) as standby:
            there = dagbump.check(standby)
            assert [item.item for item in there if not item.ok] == [
                item.item for item in dagbump.check(primary) if not item.ok
            ]
        assert [item.item for item in there if SAID in item.detail] == ["server"]

    @pytest.mark.parametrize("words", [("preview",), ("versions",), ("history",), ("repair", "--dry-run")])
    def test_commands_print_what_they_print_on_the_primary(self, cluster: Cluster, words: tuple[str, ...]) -> None:
        for form in ((), ("--json",)):
            there, here = (
                command(*DAGBUMP, *words, *form, DAGBUMP_URL=of(node)) for node in (cluster.standby, cluster.primary)
            )
            assert (there.returncode, there.stderr) == (0, "")
            assert there.stdout == here.stdout

    def test_the_command_check(self, cluster: Cluster) -> None:
        done = command(*DAGBUMP, "check", DAGBUMP_URL=of(cluster.standby))
        assert (done.returncode, SAID in done.stdout) == (0, True), done.stdout + done.stderr

    def test_the_command_holders_says_that_locks_are_on_the_primary(self, cluster: Cluster) -> None:
        done = command(*DAGBUMP, "holders", DAGBUMP_URL=of(cluster.standby))
        assert (done.returncode, "primary" in done.stdout, "Nothing is locked" in done.stdout) == (0, True, False)
        as_json = command(*DAGBUMP, "holders", "--json", DAGBUMP_URL=of(cluster.standby))
        assert (as_json.returncode, json.loads(as_json.stdout), "primary" in as_json.stderr) == (0, [], True)


class TestWhatWrites:
    """The message says what to do, even if there is nothing to move."""

    @pytest.mark.parametrize(
        "words",
        [
            ("bump",),
            ("bump", "--dag-id", "lacks a task"),
            ("repair", "--yes"),
            ("repair", "--yes", "--dag-id", "lacks a task"),
            ("upgrade",),
            ("upgrade", "--with-index"),
            ("downgrade",),
            ("downgrade", "index@base"),
        ],
    )
    def test_commands(self, cluster: Cluster, words: tuple[str, ...]) -> None:
        done = command(*DAGBUMP, *words, DAGBUMP_URL=of(cluster.standby))
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        assert done.stderr.count(SAID) == done.stderr.count(ADVICE) == 1
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("words", [("upgrade", "heads"), ("downgrade", "dagbump@base")])
    def test_plain_alembic(self, cluster: Cluster, words: tuple[str, ...]) -> None:
        done = command(*ALEMBIC, *words, DAGBUMP_URL=of(cluster.standby))
        assert done.returncode != 0
        assert SAID in done.stderr

    @pytest.mark.parametrize(
        "call",
        [
            "FROM dagbump.bump()",
            "FROM dagbump.bump('{}')",
            "FROM dagbump.repair_batch('{1}', 1)",
            "dagbump.grant_operator('postgres')",
            "dagbump.revoke_operator('pg_monitor')",
            "dagbump.prune_history('90 days')",
        ],
    )
    def test_functions(self, cluster: Cluster, call: str) -> None:
        with (
            connected(cluster.standby) as standby,
            pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match=SAID) as raised,
        ):
            standby.execute(f"SELECT {call}".encode())
        assert ADVICE in str(raised.value.diag.message_hint)

    def test_the_procedure(self, cluster: Cluster) -> None:
        for call in ("repair()", "repair('{no such dag}')"):
            with (
                connected(cluster.standby) as standby,
                pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match=SAID),
            ):
                standby.execute(f"CALL dagbump.{call}".encode())

    def test_the_client(self, cluster: Cluster) -> None:
        with (
            database.create_engine(of(cluster.standby)).begin() as standby,
            pytest.raises(dagbump.DagbumpError, match=f"{SAID}(.|\n)*{ADVICE}"),
        ):
            dagbump.bump(standby)


class TestRun:
    def test_waits_on_a_standby_and_bumps_once_it_is_promoted(self, cluster: Cluster) -> None:
        with running(*DAGBUMP, "run", "--interval", "0.1", DAGBUMP_URL=of(cluster.standby)) as loop:
            loop.until_printed(ADVICE)
            cluster.switch_over()
            loop.until_printed("connected again")
            loop.process.send_signal(signal.SIGTERM)
            assert loop.finish(timeout=5) == 0
            assert loop.count("trying again") == 1
        cluster.rejoin()


class TestAConnection:
    def test_a_command_that_loses_its_server_says_so(self, cluster: Cluster) -> None:
        waiting = "SELECT pid FROM pg_stat_activity WHERE application_name = 'dagbump' AND wait_event = 'relation'"
        primary = cluster.primary
        with closing(psycopg.connect(of(primary))) as gate:
            gate.execute("LOCK TABLE task_instance IN ACCESS EXCLUSIVE MODE")
            with running(*DAGBUMP, "bump", DAGBUMP_URL=of(primary)) as bump:
                until(lambda: primary.execute(waiting), lambda: "the bump waits for the table")
                cluster.switch_over()
                assert bump.finish(timeout=20) == 3, bump.lines
                assert bump.count("Traceback") == 0
        cluster.rejoin()

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems name these options otherwise")
    @pytest.mark.parametrize(("query", "idle"), [("", 15), ("?keepalives_idle=40", 40)])
    def test_to_a_server_that_vanishes_is_given_up(self, cluster: Cluster, query: str, idle: int) -> None:
        with database.connect(database.create_engine(of(cluster.primary) + query)) as connection:
            driver_connection: Any = connection.connection.driver_connection
            with socket.socket(fileno=os.dup(driver_connection.fileno())) as opened:
                wanted = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
                assert [opened.getsockopt(socket.IPPROTO_TCP, option) for option in wanted] == [idle, 5, 3, 30_000]
                assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
