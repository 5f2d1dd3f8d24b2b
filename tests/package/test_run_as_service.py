"""`dagbump run` under supervision: metrics, several copies, timeouts, and messages for programs."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen
from uuid import UUID

import dagbump
import pytest
from dagbump.command_line.metrics import Metrics
from dagbump.installation import state
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.engine import URL
from support.fleet import Fleet, stale_run
from support.processes import DAGBUMP, RunningProcess, command, running
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
        (self.url,) = re.findall(r"metrics at (http://127\.0\.0\.1:\d+)/metrics", "".join(loop.lines))

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
    """What Prometheus and a supervisor ask."""

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
            gate.rollback()
            until(lambda: served.status("/readyz") == 200, lambda: "it bumps again")

    def test_a_preview_that_fails_stops_no_bump(self, fleet: Fleet, database: URL) -> None:
        fleet.execute("ALTER FUNCTION dagbump.preview(bigint[], text[], integer, boolean) RENAME TO away")
        with measured(database) as served:
            served.until(1, "dagbump_errors_total", sqlstate="42883")
            stale_run(fleet)
            served.until(1, "dagbump_task_instances_bumped_total")

    def test_a_thousand_dags_are_a_bounded_number_of_series(self) -> None:
        metrics = Metrics(reporter=None, interval=1.0)  # type: ignore[arg-type]  # is told nothing here
        metrics.previewed("0001", [preview(f"dag_{number}", stale=number) for number in range(1_000)])
        (family,) = (each for each in metrics.registry.collect() if each.name == "dagbump_stale_task_instances")
        by_dag = {sample.labels["dag_id"]: sample.value for sample in family.samples}
        assert len(by_dag) == 51
        assert by_dag["dag_999"] == 999
        assert sum(by_dag.values()) == sum(range(1_000))

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
    def recovered(self) -> None: ...


def preview(dag_id: str, stale: int) -> dagbump.RunPreview:
    return dagbump.RunPreview(1, dag_id, "run", None, None, stale, {}, "bump", 0, (), ())


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
        url = libpq(database.update_query_dict({"options": "-cstatement_timeout=200 -clock_timeout=200"}))
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
