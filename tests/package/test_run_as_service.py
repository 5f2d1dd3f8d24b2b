"""`dagbump run` under supervision: metrics, several copies, timeouts, and messages for programs."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen
from uuid import UUID

import dagbump
import psycopg
import pytest
from dagbump import database as databases
from dagbump.command_line.active_copy import ActiveCopy
from dagbump.command_line.deadline import Deadline
from dagbump.command_line.metrics import Metrics, serve
from dagbump.installation import state
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from support.fleet import Fleet, stale_run
from support.processes import CHECKOUT, DAGBUMP, RunningProcess, clean_environment, command, running
from support.server import Connect, libpq
from support.waits import until

pytestmark = [pytest.mark.once, pytest.mark.slow]

QUICKLY = ("run", "--interval", "0.1")


@contextmanager
def copy(url: str, *options: str) -> Iterator[RunningProcess]:
    with running(*DAGBUMP, *QUICKLY, *options, DAGBUMP_URL=url) as loop:
        yield loop


class Served:
    """What a running copy serves."""

    def __init__(self, loop: RunningProcess) -> None:
        loop.until_printed("metrics at")
        (self.url,) = re.findall(r"metrics at (http://.+:\d+)/metrics", "".join(loop.lines))

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host.strip("[]"), int(port)

    def status(self, path: str) -> int:
        try:
            with urlopen(self.url + path) as answer:  # noqa: S310  (on loopback)
                return int(answer.status)
        except HTTPError as error:
            error.close()
            return error.code

    def value(self, name: str, **labels: str) -> float | None:
        with urlopen(self.url + "/metrics") as answer:  # noqa: S310
            families = list(text_string_to_metric_families(answer.read().decode()))
        found = [
            each.value for family in families for each in family.samples if (each.name, each.labels) == (name, labels)
        ]
        return found[0] if found else None

    def until(self, expected: float, name: str, **labels: str) -> None:
        until(lambda: self.value(name, **labels) == expected, lambda: f"{name} is {self.value(name, **labels)}")


@contextmanager
def measured(database: URL, *options: str) -> Iterator[Served]:
    words = ("--metrics-port", "0", "--metrics-address", "127.0.0.1")
    with copy(libpq(database), *words, *options) as loop:
        yield Served(loop)


class TestMetrics:
    """The paths that Prometheus and a supervisor read."""

    def test_count_what_was_done_and_what_is_left(self, fleet: Fleet, database: URL) -> None:
        stale_run(fleet, "done")
        old, _ = fleet.dag("left", versions=2)
        fleet.ti(fleet.run("left"), old, "scheduled")
        with measured(database) as served:
            served.until(1, "dagbump_task_instances_bumped_total")
            served.until(1, "dagbump_runs_needing_verify")
            served.until(1, "dagbump_stale_task_instances", dag_id="left")
            assert served.value("dagbump_stale_task_instances", dag_id="done") is None
            assert served.value("dagbump_active") == 1
            assert served.value("dagbump_info", version=dagbump.__version__, revision=state.NEWEST_REVISION) == 1
            assert (served.value("dagbump_bump_duration_seconds_count") or 0) >= 1
            assert (served.value("dagbump_last_success_timestamp_seconds") or 0) > 0
            assert (served.value("dagbump_preview_timestamp_seconds") or 0) > 0
            assert [served.status(path) for path in ("/healthz", "/readyz", "/other")] == [200, 200, 404]

    def test_a_database_that_is_locked_is_an_error_and_not_ready(self, database: URL, connect: Connect) -> None:
        with measured(database, "--lock-timeout", "0.05") as served:
            until(lambda: served.status("/readyz") == 200, lambda: "it has bumped once")
            gate = connect()
            gate.execute("LOCK TABLE task_instance IN ACCESS EXCLUSIVE MODE")
            until(lambda: served.status("/readyz") == 503, lambda: "no bump has succeeded for three intervals")
            assert served.status("/healthz") == 200
            assert (served.value("dagbump_errors_total", sqlstate="55P03") or 0) >= 1
            assert served.value("dagbump_active") == 0
            gate.rollback()
            until(lambda: served.status("/readyz") == 200, lambda: "it bumps again")
            assert served.value("dagbump_active") == 1

    def test_a_preview_that_fails_stops_no_bump(self, fleet: Fleet, database: URL) -> None:
        fleet.execute("ALTER FUNCTION dagbump.preview(bigint[], text[], integer, boolean) RENAME TO away")
        with measured(database) as served:
            served.until(1, "dagbump_errors_total", sqlstate="42883")
            stale_run(fleet)
            served.until(1, "dagbump_task_instances_bumped_total")
            assert served.value("dagbump_active") == 1

    def test_clients_that_never_finish_keep_nobody_out_and_hold_nothing_up(self, database: URL) -> None:
        words = ("--metrics-port", "0", "--metrics-address", "127.0.0.1")
        with copy(libpq(database), *words) as loop, ExitStack() as clients:
            served = Served(loop)
            until(lambda: served.status("/readyz") == 200, lambda: "it has bumped once")
            slow = [clients.enter_context(socket.create_connection(served.address)) for _ in range(200)]
            for client in slow:
                client.sendall(b"GET /metrics HTTP/1.1\r\n")
            assert served.status("/readyz") == 200
            slow[0].settimeout(1)  # less than a client may keep a thread waiting
            assert slow[0].recv(1) == b"", "the oldest one had to go"
            loop.process.send_signal(signal.SIGTERM)
            assert loop.finish(timeout=1) == 0

    def test_clients_that_say_nothing_or_go_away_print_nothing(self, database: URL) -> None:
        """A probe of a load balancer connects, and says nothing. It does so every few seconds."""
        words = ("--metrics-port", "0", "--metrics-address", "127.0.0.1")
        with copy(libpq(database), *words) as loop:
            served = Served(loop)
            with ExitStack() as clients:
                silent = clients.enter_context(socket.create_connection(served.address))
                for request in (b"", b"GET", b"GET /metrics HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00 TLS", b"\r\n" * 1000):
                    gone = clients.enter_context(socket.create_connection(served.address))
                    gone.sendall(request)
                    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    gone.close()  # with a reset
                silent.settimeout(20)
                assert silent.recv(1) == b"", "the server closes it"
            assert served.status("/healthz") == 200
            loop.process.send_signal(signal.SIGTERM)
            assert loop.finish(timeout=5) == 0
        assert [line for line in loop.lines if not line.startswith("dagbump run: ")] == []

    def test_many_clients_at_once(self, database: URL) -> None:
        with measured(database) as served, ThreadPoolExecutor(50) as clients:
            found = list(clients.map(lambda _: served.value("dagbump_errors_created") is None, range(500)))
        assert found == [True] * 500

    def test_an_ipv6_address(self, database: URL) -> None:
        with copy(libpq(database), "--metrics-port", "0", "--metrics-address", "::1") as loop:
            loop.until_printed("metrics at http://[::1]:")
            assert Served(loop).status("/healthz") == 200

    def test_all_addresses_of_both_families(self, database: URL) -> None:
        with copy(libpq(database), "--metrics-port", "0", "--metrics-address", "::") as loop:
            served = Served(loop)
            for host in ("[::1]", "127.0.0.1"):
                served.url = f"http://{host}:{served.address[1]}"
                assert served.status("/healthz") == 200

    def test_a_start_that_asks_no_dns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A DNS that does not answer would keep the command from starting."""
        monkeypatch.setattr(socket, "getfqdn", lambda *_: pytest.fail("it asks for the name of the machine"))
        assert serve(Metrics(Silent(), interval=1.0), "127.0.0.1", 0) > 0

    def test_a_thousand_dags_are_a_bounded_number_of_series(self) -> None:
        metrics = Metrics(reporter=None, interval=1.0)  # type: ignore[arg-type]  # is told nothing here
        metrics.previewed("0001", [preview(f"dag_{number}", stale=number) for number in range(1_000)])
        (family,) = (each for each in metrics.registry.collect() if each.name == "dagbump_stale_task_instances")
        by_dag = {sample.labels["dag_id"]: sample.value for sample in family.samples}
        assert len(by_dag) == 51
        assert by_dag["dag_999"] == 999
        assert sum(by_dag.values()) == sum(range(1_000))

    @pytest.mark.parametrize("dag_id", ['"quoted"', "back\\slash", "two\nlines", "käse 🧀", "}{,=", "\u2028"])
    def test_any_dag_id_is_a_label_that_can_be_read(self, dag_id: str) -> None:
        metrics = Metrics(Silent(), interval=1.0)
        metrics.previewed("0001", [preview(dag_id, stale=3)])
        families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
        (family,) = (each for each in families if each.name == "dagbump_stale_task_instances")
        assert [(sample.labels, sample.value) for sample in family.samples] == [({"dag_id": dag_id}, 3)]

    def test_a_copy_that_has_become_passive_forgets_what_it_knew(self) -> None:
        metrics = Metrics(Silent(), interval=1.0)
        metrics.result(dagbump.BumpResult((dagbump.RunBump(1, "d", "run", UUID(int=1), 2, 0, 3, False),)), 0.1)
        metrics.previewed("0001", [preview("d", stale=3)])
        metrics.stands_by("pid 1")
        left = {sample.name: sample.value for family in metrics.registry.collect() for sample in family.samples}
        assert left["dagbump_task_instances_locked"] == 0
        assert "dagbump_stale_task_instances" not in left

    def test_without_the_extra_it_says_what_to_install(self, database: URL) -> None:
        program = "import sys; sys.modules['prometheus_client'] = None; from dagbump.__main__ import main; main()"
        done = command(sys.executable, "-c", program, *QUICKLY, "--metrics-port", "0", DAGBUMP_URL=libpq(database))
        assert (done.returncode, done.stderr) == (
            1,
            "dagbump: --metrics-port needs prometheus-client: pip install 'dagbump[metrics]'\n",
        )

    def test_no_file_is_written(self, database: URL) -> None:
        """The variable is for programs of several processes, and may be set for those on the same machine."""
        words = ("--metrics-port", "0", "--metrics-address", "127.0.0.1")
        with running(
            *DAGBUMP, *QUICKLY, *words, DAGBUMP_URL=libpq(database), PROMETHEUS_MULTIPROC_DIR="/nowhere"
        ) as loop:
            Served(loop).until(1, "dagbump_active")

    def test_a_port_that_is_taken(self, database: URL) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            words = ("--metrics-address", "127.0.0.1", "--metrics-port", str(port))
            done = command(*DAGBUMP, *QUICKLY, *words, DAGBUMP_URL=libpq(database))
        assert done.returncode == 1
        assert f"metrics cannot be served at 127.0.0.1, port {port}: Address already in use" in done.stderr


class Silent:
    """A reporter that prints nothing."""

    def result(self, result: dagbump.BumpResult, seconds: float) -> None: ...
    def stands_by(self, other: str) -> None: ...
    def trouble(self, error: BaseException) -> None: ...
    def preview_failed(self, error: BaseException) -> None: ...
    def recovered(self) -> None: ...


def preview(dag_id: str, stale: int) -> dagbump.RunPreview:
    return dagbump.RunPreview(1, dag_id, "run", None, None, stale, {}, "bump", 0, (), ())


@contextmanager
def ended_sessions(database: URL) -> Iterator[Callable[[str], object]]:
    """Yield a function that ends the sessions of an application."""
    query = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = %s"
    with psycopg.connect(libpq(database), autocommit=True) as connection:
        yield lambda application: connection.execute(query, (application,)).fetchall()


class TestCopies:
    """One copy is active, the others stand by."""

    def test_the_next_one_takes_over_when_the_active_one_is_killed(self, fleet: Fleet, database: URL) -> None:
        url = libpq(database)
        with copy(url) as first:
            stale_run(fleet, "first")
            first.until_printed("bumped 1")
            with copy(url) as second:
                second.until_printed("standing by, because another copy is active: pid ")
                stale_run(fleet, "second")
                first.until_printed("bumped 1", times=2)
                first.process.kill()
                second.until_printed("this copy is the active one now")
                stale_run(fleet, "third")
                second.until_printed("bumped 1")
                assert second.count("standing by") == 1

    def test_all_of_them_where_somebody_wants_that(self, fleet: Fleet, database: URL) -> None:
        url = libpq(database)
        with copy(url) as first, copy(url, "--all-active") as second:
            for loop in (first, second):
                loop.until_printed("one safe bump")
            first.process.send_signal(signal.SIGSTOP)  # it keeps its lock
            stale_run(fleet)
            second.until_printed("bumped 1")

    def test_a_copy_that_stands_by_is_ready(self, fleet: Fleet, database: URL) -> None:
        with copy(libpq(database)) as first:
            stale_run(fleet)
            first.until_printed("bumped 1")
            with measured(database) as served:
                until(lambda: served.status("/readyz") == 200, lambda: "it is ready")
                assert served.value("dagbump_active") == 0

    def test_keep_their_parts_while_a_table_is_locked(self, fleet: Fleet, database: URL, connect: Connect) -> None:
        """If they took turns, one of them would always wait for the table, without the growing pauses."""
        words = ("--lock-timeout", "0.05", "--metrics-port", "0", "--metrics-address", "127.0.0.1")
        with copy(libpq(database), *words) as first:
            served = Served(first)
            served.until(1, "dagbump_active")
            with copy(libpq(database), "--lock-timeout", "0.05") as second:
                second.until_printed("standing by")
                gate = connect()
                gate.execute("LOCK TABLE task_instance IN ACCESS EXCLUSIVE MODE")
                until(
                    lambda: (served.value("dagbump_errors_total", sqlstate="55P03") or 0) >= 3,
                    lambda: "it has tried three times",
                )
                gate.rollback()
                stale_run(fleet)
                first.until_printed("bumped 1")
                told = [line for line in second.lines if "one safe bump" not in line]
                assert len(told) == 1, told

    def test_a_copy_that_stands_by_says_so_after_trouble(self, database: URL) -> None:
        url = database.update_query_dict({"application_name": "standby"})
        with copy(libpq(database)) as first:
            first.until_printed("one safe bump")
            with copy(libpq(url)) as second, ended_sessions(database) as end:
                second.until_printed("standing by")
                end("standby")
                second.until_printed("connected again, and standing by")

    def test_one_that_is_stopped_stands_by_when_it_goes_on(self, fleet: Fleet, database: URL) -> None:
        words = ("--statement-timeout", "1")  # so the server waits 31.1 seconds for a copy that is silent
        with copy(libpq(database), *words) as active:
            stale_run(fleet, "first")
            active.until_printed("bumped 1")
            with copy(libpq(database), *words) as passive:
                passive.until_printed("standing by")
                active.process.send_signal(signal.SIGSTOP)
                stale_run(fleet, "second")
                until(
                    lambda: passive.count("this copy is the active one now"),
                    lambda: "the server has ended the session of the stopped one",
                    patience=60,
                )
                passive.until_printed("bumped 1")
                active.process.send_signal(signal.SIGCONT)
                active.until_printed("standing by, because another copy is active: pid ")
                stale_run(fleet, "third")
                passive.until_printed("bumped 1", times=2)
                assert active.count("bumped 1") == 1

    def test_a_copy_that_has_gone_silent_loses_its_part(self, database: URL) -> None:
        """A machine that has lost its power closes no connection, nor does a process that is stopped."""
        engine = databases.create_engine(libpq(database))
        silent, other = (ActiveCopy(lambda: databases.connect(engine), silence, Deadline(0)) for silence in (0.2, 0))
        try:
            assert silent.other() is None
            until(lambda: other.other() is None, lambda: "the server has ended the session of the silent one")
            with pytest.raises(DBAPIError, match="idle-in-transaction timeout"):
                silent.other()
            assert "pid" in (silent.other() or "")
        finally:
            silent.give_up()
            other.give_up()

    def test_an_idle_session_timeout_is_no_trouble(self, fleet: Fleet, database: URL) -> None:
        if fleet.connection.info.server_version < 140000:
            pytest.skip("idle_session_timeout came with PostgreSQL 14")
        url = libpq(database.update_query_dict({"options": "-cidle_session_timeout=300"}))
        with copy(url, "--interval", "0.8") as first:
            first.until_printed("one safe bump")
            for number in range(1, 4):
                stale_run(fleet, f"of the first {number}")
                first.until_printed("bumped 1", times=number)
            with copy(url, "--interval", "0.8") as second:
                second.until_printed("standing by")
                stale_run(fleet, "beside a copy that stands by")
                first.until_printed("bumped 1", times=4)
                first.process.kill()
                second.until_printed("this copy is the active one now")
                assert first.count("trying again") == second.count("trying again") == 0

    def test_the_lock_holds_nothing_else_back_and_outlives_the_timeouts_of_the_role(
        self, fleet: Fleet, database: URL
    ) -> None:
        settings = "-cdefault_transaction_isolation=serializable -cidle_in_transaction_session_timeout=300"
        with copy(libpq(database.update_query_dict({"options": settings}))) as loop:
            stale_run(fleet)
            loop.until_printed("bumped 1")
            lock = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2"
            ((pid,),) = fleet.execute(lock).fetchall()
            old = """
                SELECT backend_xmin, backend_xid FROM pg_stat_activity
                WHERE pid = %s AND state = 'idle in transaction' AND now() - xact_start > interval '1 s'
            """
            until(
                lambda: fleet.execute(old, pid).fetchone() == (None, None),
                lambda: "the idle transaction is older than the timeout of the role, and holds no snapshot",
            )
            assert loop.count("trying again") == 0


class TestSupervision:
    """Messages and signs for the programs that watch over it."""

    def test_a_role_s_own_timeouts_are_replaced(self, fleet: Fleet, database: URL, connect: Connect) -> None:
        gate = connect()
        gate.execute("LOCK TABLE task_instance IN ACCESS EXCLUSIVE MODE")
        own = "-cstatement_timeout=900 -clock_timeout=900"
        if gate.info.server_version >= 170000:
            own += " -ctransaction_timeout=900"
        url = libpq(database.update_query_dict({"options": own}))
        with copy(url) as loop:
            waits = (
                "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND now() - query_start > interval '1 s'"
            )
            until(lambda: fleet.execute(waits).fetchone() is not None, lambda: "it waits for longer than that")
            gate.rollback()
            stale_run(fleet)
            loop.until_printed("bumped 1")
            assert loop.count("trying again") == 0

    def test_every_message_is_json_if_that_is_wanted(self, fleet: Fleet, database: URL, connect: Connect) -> None:
        gate = connect()
        gate.execute("LOCK TABLE task_instance IN ACCESS EXCLUSIVE MODE")
        with copy(libpq(database), "--log-format", "json", "--json", "--lock-timeout", "0.05") as loop:
            loop.until_printed("trying again")
            gate.rollback()
            stale_run(fleet)
            loop.until_printed('"bumped": 1')
            loop.process.send_signal(signal.SIGTERM)
            assert loop.finish(timeout=5) == 0
        lines = [json.loads(line) for line in loop.lines]
        assert [sorted(line) for line in lines] == [
            ["at", "message"] if "message" in line else ["at", "runs"] for line in lines
        ]
        assert lines[-1]["message"] == "dagbump run: ended."

    def test_systemd_is_told_after_the_first_bump(self, database: URL, tmp_path: Path) -> None:
        address = str(tmp_path / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(address)
            systemd.settimeout(20)
            with running(*DAGBUMP, *QUICKLY, DAGBUMP_URL=libpq(database), NOTIFY_SOCKET=address):
                assert systemd.recv(100) == b"READY=1"

    def test_systemd_shows_what_it_waits_for(self, database: URL, connect: Connect, tmp_path: Path) -> None:
        gate = connect()
        gate.execute("LOCK TABLE task_instance IN ACCESS EXCLUSIVE MODE")
        address = str(tmp_path / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(address)
            systemd.settimeout(20)
            words = (*DAGBUMP, *QUICKLY, "--lock-timeout", "0.05")
            with running(*words, DAGBUMP_URL=libpq(database), NOTIFY_SOCKET=address):
                state = systemd.recv(1_000).decode()
                assert state.startswith("STATUS="), state
                assert "table public.task_instance is locked by pid" in state
                gate.rollback()
                assert b"READY=1" in (systemd.recv(1_000), systemd.recv(1_000))

    def test_sigterm_ends_it_although_nobody_reads_what_it_prints(self, database: URL) -> None:
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETFL, os.O_NONBLOCK)
        with ExitStack() as stack:
            stack.callback(os.close, reader)
            try:
                while os.write(writer, b"x"):
                    pass
            except BlockingIOError:
                pass
            fcntl.fcntl(writer, fcntl.F_SETFL, 0)
            process = stack.enter_context(
                subprocess.Popen(
                    [*DAGBUMP, *QUICKLY],
                    env=clean_environment(DAGBUMP_URL=libpq(database)),
                    cwd=CHECKOUT,
                    stdout=writer,
                    stderr=writer,
                )
            )
            stack.callback(process.kill)
            os.close(writer)
            with psycopg.connect(libpq(database), autocommit=True) as connection:
                sessions = "SELECT FROM pg_stat_activity WHERE application_name = 'dagbump'"
                until(lambda: connection.execute(sessions).fetchone() is not None, lambda: "it has started")
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=2) == 0

    def test_messages_never_go_to_standard_output(self, fleet: Fleet, database: URL) -> None:
        with running(
            "sh", "-c", 'exec "$@" 2>&-', "sh", *DAGBUMP, *QUICKLY, "--json", DAGBUMP_URL=libpq(database)
        ) as loop:
            stale_run(fleet)
            loop.until_printed('"bumped": 1')
        assert [sorted(json.loads(line)) for line in loop.lines] == [["at", "runs"]]
