"""The plugin inside Airflow's scheduler, step by step: when it stays off, and what it does when things go wrong.

The loops are those of SchedulerJobRunner, called one by one in a worker (inside_airflow/plugin.py) of
`environments.release`. The test reads the effects from the database.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagbump
import psycopg
import pytest
from dagbump import database as dagbump_database
from dagbump.installation import installer
from sqlalchemy.engine import URL
from support import server
from support.releases import environments
from support.releases.live_dag import LiveDag, Tis
from support.releases.worker import Worker, start_worker

pytestmark = pytest.mark.airflow

SCRIPT = Path(__file__).parents[1] / "support" / "inside_airflow" / "plugin.py"
RELEASE = environments.number()

IS_ON = f"INFO: dagbump {dagbump.__version__} is on: one dagbump.bump per scheduler loop"
STAYS_OFF = "WARNING: dagbump stays off: "
UNKNOWN = "it does not know this release of Airflow yet: {}, whose scheduler is different ({}). Nothing is lost"

REPLACED = {
    "_schedule_all_dag_runs": "SchedulerJobRunner",
    "_verify_integrity_if_dag_changed": "SchedulerJobRunner",
    "get_running_dag_runs_to_examine": "DagRun",
}

NOTHING_WRONG: dict[str, Any] = {
    "error": None,
    "logged": [],
    "skipped": [],
    "loaded_by_examining": 0,
    "loaded_by_verifying": 0,
}

V1 = 'task("A") >> task("B") >> task("C")'
V2 = 'task("A") >> task("B") >> task("C") >> task("D")'
V3 = 'task("A") >> task("B") >> task("C") >> task("D") >> task("E")'
BEFORE: Tis = {"A": ("success", 1), "B": ("running", 1), "C": (None, 1)}
DONE: Tis = {"A": ("success", 1), "B": ("running", 2), "C": (None, 2), "D": (None, 2)}

LANDED_TWICE: Tis = {"A": ("success", 1), "B": ("running", 3), "C": (None, 3), "D": (None, 3), "E": (None, 3)}


@pytest.fixture(scope="module")
def worker(airflow_url: URL, statsd: socket.socket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    environment = {
        "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",  # a new version at once
        "AIRFLOW__DAGBUMP__ENABLED": "True",
        "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
        "AIRFLOW__METRICS__STATSD_ON": "True",
        "AIRFLOW__METRICS__STATSD_PORT": str(statsd.getsockname()[1]),
    }
    home = tmp_path_factory.mktemp("airflow")
    with start_worker(environments.release(), airflow_url, home, environment, SCRIPT) as worker:
        yield worker


@pytest.fixture
def connection(airflow_url: URL) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server.libpq(airflow_url), autocommit=True) as connection:
        yield connection


@pytest.fixture
def stock(worker: Worker) -> Iterator[Worker]:
    """A scheduler's process before the plugin has been turned on."""
    worker("stop_scheduler")
    yield worker
    worker("stop_scheduler")


@pytest.fixture
def scheduler(stock: Worker) -> Worker:
    """A scheduler with dagbump."""
    assert stock("start_scheduler") == [IS_ON]
    return stock


@pytest.fixture
def dag(scheduler: Worker, connection: psycopg.Connection[Any]) -> Iterator[LiveDag]:
    dag = LiveDag(scheduler, connection)
    yield dag
    dag.finish()


@pytest.fixture
def landed(dag: LiveDag) -> LiveDag:
    """A run in which B runs and C waits, when a second version of the DAG adds D."""
    dag.start(V1, {"A": "success", "B": "running"})
    dag.write(V2)
    assert dag.tis() == BEFORE
    return dag


class TestTurnedOn:
    def test_once_with_one_line(self, stock: Worker) -> None:
        assert stock("start_scheduler") == [IS_ON]
        assert stock("start_scheduler") == []

        assert not stock("is_stock")

    def test_at_the_second_try_where_the_database_fails_for_a_moment(self, stock: Worker) -> None:
        """Else the plugin would stay off until somebody restarts the scheduler."""
        assert stock("start_scheduler_with", misfit="the first try fails") == [IS_ON]

    @pytest.mark.parametrize("how", ["disabled", "not a scheduler"])
    def test_not_where_nobody_asked_for_it(self, stock: Worker, how: str) -> None:
        assert stock("start_scheduler_with", misfit=how) == []

        assert stock("is_stock")

    def test_not_in_a_task_that_was_forked_off_a_scheduler(self, stock: Worker) -> None:
        assert stock("start_scheduler", as_task=True) == []

        assert stock("is_stock")

    @pytest.mark.parametrize(
        ("misfit", "why"),
        [
            ("release", UNKNOWN.format("3.5.0", "it knows 3.0, 3.1, 3.2, 3.3, 3.4")),
            ("method gone", UNKNOWN.format("{0}", "SchedulerJobRunner._verify_integrity_if_dag_changed is not there")),
            ("other parameters", UNKNOWN.format("{0}", "DagRun.get_running_dag_runs_to_examine takes session, limit")),
            ("parameter gone", UNKNOWN.format("{0}", "DagRun.verify_integrity takes self, session")),
            # As in a generator that commits after each run (Airflow's open pull request 72873).
            (
                "no retries",
                UNKNOWN.format(
                    "{0}", "SchedulerJobRunner._schedule_all_dag_runs is made by airflow.jobs.scheduler_job_runner"
                ),
            ),
            ("database", "it works only on PostgreSQL."),
            ("module gone", "import of airflow.jobs.job halted"),
            ("configuration fails", "no such file. The scheduler does its work without it;"),
            ("panic", "a library has given up."),
            ("sessions fail", "no more listeners."),
        ],
    )
    def test_not_in_an_airflow_that_it_does_not_know(self, stock: Worker, misfit: str, why: str) -> None:
        (warning,) = stock("start_scheduler_with", misfit=misfit)

        assert warning.startswith(STAYS_OFF + why.format(environments.release()))
        assert stock("is_stock")

    @pytest.mark.parametrize(
        ("misfit", "value"), [("enabled: yes please", '"yes please"'), ("enabled, but empty", '""')]
    )
    def test_not_where_the_configuration_says_neither_yes_nor_no(self, stock: Worker, misfit: str, value: str) -> None:
        (warning,) = stock("start_scheduler_with", misfit=misfit)

        assert warning.startswith(STAYS_OFF)
        assert f'"enabled" key in "dagbump" section. Current value: {value}. It may be True or False.' in warning
        assert stock("is_stock")

    @pytest.mark.parametrize("misfit", ["enabled: yes please", "panic"])
    def test_what_goes_wrong_keeps_no_other_listener_from_starting(self, stock: Worker, misfit: str) -> None:
        started = stock("start_job_beside_others", misfit=misfit)

        assert sorted(started["started"]) == ["first", "last"]
        (warning,) = started["logged"]
        assert warning.startswith(STAYS_OFF)
        assert stock("is_stock")

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ("ALTER SCHEMA dagbump RENAME TO elsewhere", "run `dagbump upgrade`."),
            ("UPDATE dagbump.installation SET revision = '0000'", "this database holds dagbump 0000"),
            (
                "ALTER FUNCTION dagbump.bump(bigint[], text[], integer, boolean, boolean, text) RENAME TO other",
                "or not for an Airflow that is there: run `dagbump upgrade`.",
            ),
        ],
    )
    def test_not_on_a_database_that_does_not_fit(
        self, stock: Worker, airflow_url: URL, connection: psycopg.Connection[Any], change: str, why: str
    ) -> None:
        connection.execute(change.encode())
        try:
            (warning,) = stock("start_scheduler")
        finally:
            reinstall(airflow_url, connection)

        assert warning.startswith(STAYS_OFF)
        assert why in warning
        assert stock("is_stock")


class TestSomebodyElsesPatch:
    """Another plugin patches a function that dagbump replaces (inside_airflow/other_patches.py)."""

    @pytest.mark.parametrize(
        ("name", "how"),
        [*((name, how) for name in REPLACED for how in ("wrapped", "proxied")), ("_schedule_all_dag_runs", "retried")],
    )
    def test_made_first_goes_on_working_without_dagbump(
        self, stock: Worker, connection: psycopg.Connection[Any], name: str, how: str
    ) -> None:
        stock("patch", name=name, how=how)
        (warning,) = stock("start_scheduler")
        landed = LiveDag(stock, connection)
        landed.start(V1, {"A": "success", "B": "running"})
        landed.write(V2)
        stock("calls_of_patches")

        loop = stock("loop")
        landed.finish()

        assert warning.startswith(f"{STAYS_OFF}{REPLACED[name]}.{name} of Airflow {environments.release()} is ")
        assert "patched by support.inside_airflow.other_patches, and dagbump would bypass that." in warning
        assert loop["error"] is None
        assert loop["bumps"] == []
        assert set(stock("calls_of_patches")) == {name}
        assert landed.tis()["D"] == (None, 2)

    def test_that_does_not_say_what_it_wraps_is_named_too(self, stock: Worker) -> None:
        stock("patch", name="_schedule_all_dag_runs", how="replaced")

        (warning,) = stock("start_scheduler")

        assert "_schedule_all_dag_runs of Airflow" in warning
        assert "is patched by support.inside_airflow.other_patches, and dagbump would bypass that." in warning

    def test_that_is_broken_is_no_trap(self, stock: Worker) -> None:
        stock("patch", name="_schedule_all_dag_runs", how="cyclic")

        (warning,) = stock("start_scheduler")

        assert warning.startswith(f"{STAYS_OFF}wrapper loop when unwrapping")

    @pytest.mark.parametrize("how", ["wrapped", "proxied", "replaced"])
    @pytest.mark.parametrize("name", REPLACED)
    def test_made_afterwards_works_with_dagbump(self, landed: LiveDag, name: str, how: str) -> None:
        landed.worker("patch", name=name, how=how)
        landed.worker("calls_of_patches")

        loop = landed.worker("loop")

        assert (loop["error"], loop["bumps"]) == (None, [[landed.run]])
        assert set(landed.worker("calls_of_patches")) == {name}
        assert landed.tis() == DONE
        assert landed.worker("start_scheduler") == []  # it is on

    @pytest.mark.parametrize("first", ["dagbump", "the patch"])
    def test_tries_no_more_often_than_airflow(self, landed: LiveDag, first: str) -> None:
        if first == "the patch":
            landed.worker("stop_scheduler")
        landed.worker("patch", name="_schedule_all_dag_runs", how="wrapped")
        landed.worker("start_scheduler")

        error = landed.worker("loop", fault="database fails")["error"]

        assert "try 3" in error


class TestLoop:
    def test_one_bump_moves_the_tis_and_airflow_adds_the_new_task(self, landed: LiveDag) -> None:
        loop = landed.worker("loop")

        assert loop == NOTHING_WRONG | {"bumps": [[landed.run]], "verified": [landed.run]}
        assert landed.tis() == DONE

    def test_nothing_happens_to_a_run_on_the_latest_version(self, landed: LiveDag) -> None:
        landed.worker("loop")
        before = everything_of(landed)

        loop = landed.worker("loop")

        assert loop == NOTHING_WRONG | {"bumps": [[landed.run]], "verified": []}
        assert everything_of(landed) == before

    def test_a_ti_that_has_no_state_and_came_late_is_moved(self, landed: LiveDag) -> None:
        landed.worker("loop")
        landed.connection.execute(
            "UPDATE task_instance SET dag_version_id = %s WHERE dag_id = %s AND task_id = 'C'",
            (landed.versions()[1], landed.dag_id),
        )

        landed.worker("loop")

        assert landed.tis() == DONE

    def test_a_pinned_run_is_left_alone(self, landed: LiveDag) -> None:
        landed.connection.execute("UPDATE dag_run SET bundle_version = 'abc' WHERE id = %s", (landed.run,))

        assert landed.worker("loop")["bumps"] == []

        assert landed.tis() == BEFORE

    def test_a_run_that_airflow_times_out_keeps_its_version(self, dag: LiveDag) -> None:
        pass_the_timeout(dag)

        loop = dag.worker("loop")

        assert loop["bumps"] == [[dag.run]]  # and undone
        assert dag.tis() == dict.fromkeys("ABC", ("skipped", 1))

    def test_a_run_of_the_future_keeps_its_version(self, landed: LiveDag) -> None:
        landed.connection.execute(
            "UPDATE dag_run SET logical_date = now() + interval '1 day' WHERE id = %s", (landed.run,)
        )

        assert landed.worker("loop")["bumps"] == []

        assert landed.tis() == BEFORE

    def test_a_run_whose_dag_has_disappeared_is_left_alone(self, landed: LiveDag) -> None:
        version = landed.versions()[2]
        landed.connection.execute("DELETE FROM serialized_dag WHERE dag_version_id = %s", (version,))

        loop = landed.worker("loop")

        assert loop["error"] is None
        assert landed.tis() == BEFORE


class TestMissingInTheAnswer:
    """If the bump has not examined a run, its answer lacks the run, and Airflow's own code does the work."""

    def test_is_a_run_that_is_queued(self, landed: LiveDag) -> None:
        landed.connection.execute("UPDATE dag_run SET state = 'queued' WHERE id = %s", (landed.run,))

        loop = landed.worker("loop", run=landed.run)

        assert loop == NOTHING_WRONG | {"bumps": [[landed.run]], "verified": [landed.run]}
        assert landed.tis()["D"] == (None, 2)

    @pytest.mark.parametrize("when", ["before the loop", "before the bump"])
    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE dag SET is_paused = true WHERE dag_id = '{dag_id}'",
            "UPDATE dag SET is_stale = true WHERE dag_id = '{dag_id}'",
            "UPDATE dag_run SET state = 'queued' WHERE id = {run}",
            "UPDATE dag_run SET state = 'failed' WHERE id = {run}",
            "UPDATE dag_run SET run_after = now() + interval '1 day' WHERE id = {run}",
            "UPDATE dag_run SET bundle_version = 'abc' WHERE id = {run}",
        ],
    )
    def test_is_a_run_that_is_no_longer_to_be_examined(self, landed: LiveDag, statement: str, when: str) -> None:
        meanwhile = {"statement": statement.format(dag_id=landed.dag_id, run=landed.run)}

        loop = landed.worker("loop", run=landed.run, meanwhile=meanwhile, when=when)

        assert loop == NOTHING_WRONG | {"bumps": [[landed.run]], "verified": [landed.run]}
        assert landed.tis()["D"] == (None, 2)

    def test_is_a_run_whose_dag_is_paused_while_others_are_bumped(self, landed: LiveDag, scheduler: Worker) -> None:
        other = LiveDag(scheduler, landed.connection)
        other.start(V1, {"A": "success", "B": "running"})
        other.write(V2)
        paused = {"statement": f"UPDATE dag SET is_paused = true WHERE dag_id = '{other.dag_id}'"}

        loop = scheduler("loop", meanwhile=paused)
        other.finish()

        assert sorted(loop["verified"]) == [landed.run, other.run]
        assert landed.tis() == DONE
        assert other.tis()["D"] == (None, 2)

    @pytest.mark.parametrize("when", ["before the bump", "in the middle of the bump"])
    def test_is_a_run_whose_dag_has_a_newer_version(self, landed: LiveDag, when: str) -> None:
        landed.worker("loop")

        loop = landed.worker("loop", meanwhile=landed.file(V3), when=when)

        assert (loop["error"], loop["logged"], loop["verified"]) == (None, [], [landed.run])
        assert landed.tis()["E"] == (None, 3)
        landed.worker("loop")
        assert landed.tis() == LANDED_TWICE

    @pytest.mark.parametrize("when", ["before the bump", "after the bump"])
    def test_is_no_run_that_is_bumped_when_a_newer_version_lands(self, landed: LiveDag, when: str) -> None:
        landed.start_another_run()  # a version that no TI refers to would be rewritten

        loop = landed.worker("loop", meanwhile=landed.file(V3), when=when)

        assert (loop["error"], loop["logged"]) == (None, [])
        assert landed.run in loop["verified"]
        assert landed.tis()["D"] == (None, 3 if when == "before the bump" else 2)
        landed.worker("loop")
        assert landed.tis() == LANDED_TWICE


class TestHeldForLong:
    """[dagbump] warn_held_after; here so short that a held run has been held for long when the next loop comes."""

    @pytest.fixture
    def scheduler(self, stock: Worker) -> Worker:
        assert stock("start_scheduler_with", misfit="warn_held_after: next loop") == [IS_ON]
        return stock

    @pytest.fixture
    def holder(self, landed: LiveDag, airflow_url: URL) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(server.libpq(airflow_url), application_name="a long report") as holder:
            holder.execute("SELECT FROM task_instance WHERE dag_id = %s AND task_id = 'C' FOR UPDATE", (landed.dag_id,))
            yield holder

    def logged(self, dag: LiveDag, *faults: str | None) -> list[str]:
        """Do a loop for each fault, and return what is logged."""
        logged: list[str] = []
        for fault in faults:
            loop = dag.worker("loop", fault=fault)
            assert loop["error"] is None
            logged += loop["logged"]
        return logged

    def test_is_said_once_with_the_holder(self, landed: LiveDag, holder: psycopg.Connection[Any]) -> None:
        (warning,) = self.logged(landed, None, None, "holders are not asked")

        assert warning.startswith(f"WARNING: Task instances of DAG {landed.dag_id}, run manual__")
        assert f"locked by pid {holder.info.backend_pid} (application 'a long report', role" in warning
        assert "idle in transaction, for " in warning

    def test_is_said_again_when_it_was_free_in_between(self, landed: LiveDag, holder: psycopg.Connection[Any]) -> None:
        assert len(self.logged(landed, None, None)) == 1
        holder.rollback()
        assert self.logged(landed, None) == []
        landed.write(V3)
        holder.execute("SELECT FROM task_instance WHERE dag_id = %s AND task_id = 'C' FOR UPDATE", (landed.dag_id,))

        assert len(self.logged(landed, None, None)) == 1

    @pytest.mark.parametrize("fault", ["holders are gone", "only one savepoint"])
    def test_not_to_find_out_who_is_no_error(
        self, landed: LiveDag, holder: psycopg.Connection[Any], fault: str
    ) -> None:
        lines = self.logged(landed, None, fault, None)

        assert [line for line in lines if "verify_scope has failed" not in line] == [
            line for line in lines if line.startswith("INFO: dagbump cannot find out who has locked task instances: ")
        ]
        assert lines
        holder.rollback()
        assert self.logged(landed, None) == []
        assert landed.tis() == DONE

    def test_nobody_is_asked_where_nothing_is_held(self, landed: LiveDag) -> None:
        assert self.logged(landed, "holders are not asked", "holders are not asked") == []


class TestWarnHeldAfter:
    def test_zero_is_never(self, stock: Worker, connection: psycopg.Connection[Any], airflow_url: URL) -> None:
        assert stock("start_scheduler_with", misfit="warn_held_after: 0") == [IS_ON]
        dag = LiveDag(stock, connection)
        dag.start(V1, {"A": "success", "B": "running"})
        dag.write(V2)
        with psycopg.connect(server.libpq(airflow_url)) as holder:
            holder.execute("SELECT FROM task_instance WHERE dag_id = %s FOR UPDATE", (dag.dag_id,))
            loops = [stock("loop", fault="holders are not asked") for _ in range(3)]
            assert [(loop["error"], loop["logged"]) for loop in loops] == [(None, [])] * 3
        dag.finish()

    @pytest.mark.parametrize("setting", ["warn_held_after", "missing_tasks_interval"])
    @pytest.mark.parametrize("value", ["a while", "-1", "nan"])
    def test_what_is_no_number_of_seconds_is_refused(self, stock: Worker, setting: str, value: str) -> None:
        (warning,) = stock("start_scheduler_with", misfit=f"{setting}: {value}")

        assert warning.startswith(STAYS_OFF)
        assert "may be a number of seconds" in warning
        assert stock("is_stock")


class TestHeldTis:
    """All stale TIs of a run are held by another transaction, and no task is new."""

    @pytest.fixture
    def held(self, dag: LiveDag, airflow_url: URL) -> Iterator[tuple[LiveDag, psycopg.Connection[Any]]]:
        dag.start(V1, {"A": "success", "B": "running"})
        dag.write(V1, description="the second version")
        with psycopg.connect(server.libpq(airflow_url)) as holder:
            holder.execute("SELECT FROM task_instance WHERE dag_id = %s FOR UPDATE", (dag.dag_id,))
            yield dag, holder

    def test_verify_once(self, held: tuple[LiveDag, psycopg.Connection[Any]]) -> None:
        dag, _ = held

        loops = [dag.worker("loop") for _ in range(3)]

        assert [loop["skipped"] for loop in loops] == [[dag.run], [], []]
        assert [loop["verified"] for loop in loops] == [[]] * 3
        assert dag.tis() == BEFORE

    def test_verify_anew_for_a_newer_version(self, held: tuple[LiveDag, psycopg.Connection[Any]]) -> None:
        dag, _ = held
        dag.worker("loop")
        other = dag.start_another_run()  # a version that no TI refers to would be rewritten
        dag.write(V1, description="the third version")

        verified = [dag.worker("loop")["skipped"] for _ in range(2)]

        assert sorted(verified[0]) == [dag.run, other]
        assert verified[1] == []

    def test_verify_anew_after_a_loop_that_did_not_commit(self, held: tuple[LiveDag, psycopg.Connection[Any]]) -> None:
        dag, _ = held
        dag.worker("loop", fault="database fails")

        verified = [dag.worker("loop")["skipped"] for _ in range(2)]

        assert verified == [[dag.run], []]

    def test_let_go_are_moved_and_verified_for_good(self, held: tuple[LiveDag, psycopg.Connection[Any]]) -> None:
        dag, holder = held
        dag.worker("loop")
        holder.rollback()

        verified = [dag.worker("loop")["skipped"] for _ in range(2)]

        assert verified == [[dag.run], []]
        assert dag.tis() == {"A": ("success", 1), "B": ("running", 2), "C": (None, 2)}
        assert dag.worker("remembered") == []

    @pytest.mark.skipif(RELEASE < (3, 3), reason="up to 3.2 a scheduler never reads a version again")
    def test_miss_no_task_of_a_version_that_airflow_rewrites_meanwhile(
        self, held: tuple[LiveDag, psycopg.Connection[Any]]
    ) -> None:
        dag, holder = held
        dag.worker("loop")
        dag.write(V2)
        assert sorted(dag.versions()) == [1, 2]
        dag.worker("loop")
        holder.rollback()

        dag.worker("loop")

        assert dag.tis() == DONE

    def test_are_forgotten_with_their_run(self, held: tuple[LiveDag, psycopg.Connection[Any]]) -> None:
        dag, _ = held
        dag.worker("loop")
        dag.start_another_run()

        dag.connection.execute("UPDATE dag_run SET state = 'queued' WHERE id = %s", (dag.run,))
        dag.worker("loop")
        assert dag.worker("remembered") == [dag.run]

        dag.worker("let_a_day_pass")
        dag.worker("loop")
        assert dag.worker("remembered") == []


class TestTrouble:
    def test_a_run_that_ends_without_its_verify_is_forgotten(self, landed: LiveDag) -> None:
        landed.start_another_run()
        landed.worker("loop", fault="verify raises")
        assert landed.worker("remembered") == [landed.run]
        landed.connection.execute("UPDATE dag_run SET state = 'failed' WHERE id = %s", (landed.run,))
        landed.worker("let_a_day_pass")

        landed.worker("loop")

        assert landed.worker("remembered") == []

    def test_a_run_whose_verify_raised_goes_on_and_is_verified_after_the_interval(self, landed: LiveDag) -> None:
        loops = [landed.worker("loop", fault="verify raises") for _ in range(3)]

        assert [(loop["error"], len(loop["logged"])) for loop in loops] == [(None, 1), (None, 0), (None, 0)]
        assert "verify_integrity has failed for run" in loops[0]["logged"][0]
        assert landed.tis() == {name: ti for name, ti in DONE.items() if name != "D"}

        landed.worker("let_the_interval_pass")
        landed.worker("loop")
        assert landed.tis() == DONE

    def test_a_race_for_a_new_task_loses_nothing_of_the_loop(self, landed: LiveDag) -> None:
        # verify_integrity wants to roll back all of it.
        loop = landed.worker("loop", fault="another creates the same")
        assert (loop["error"], loop["logged"]) == (None, [])
        assert landed.tis() == DONE
        assert landed.worker("remembered") == [landed.run]

        assert landed.worker("loop")["skipped"] == [landed.run]
        assert landed.tis() == DONE
        assert landed.worker("remembered") == []

    def test_airflows_second_try_bumps_again(self, landed: LiveDag) -> None:
        loop = landed.worker("loop", fault="database fails once")

        assert loop == NOTHING_WRONG | {"bumps": [[landed.run]] * 2, "verified": [landed.run] * 2}
        assert landed.tis() == DONE

    def test_a_lost_connection_is_airflows_to_mend(self, landed: LiveDag) -> None:
        loop = landed.worker("loop", fault="connection is lost")

        assert loop["error"] is None
        assert loop["logged"] == []
        assert landed.tis() == DONE

    def test_an_error_of_the_function_costs_a_fallback_and_one_warning(
        self, landed: LiveDag, airflow_url: URL, connection: psycopg.Connection[Any]
    ) -> None:
        connection.execute("ALTER SCHEMA dagbump RENAME TO elsewhere")
        try:
            first, second = landed.worker("loop"), landed.worker("loop")
        finally:
            reinstall(airflow_url, connection)
        assert [first["error"], second["error"]] == [None, None]
        (warning,) = first["logged"] + second["logged"]
        assert warning.startswith("WARNING: dagbump has failed: ")
        assert "Airflow's own code does this loop" in warning
        assert landed.tis()["D"] == (None, 2)

        assert landed.worker("loop")["logged"] == ["INFO: dagbump works again"]
        assert landed.worker("loop")["logged"] == []
        assert landed.tis() == DONE

    def test_nothing_is_kept_of_a_bump_that_failed_after_its_answer(self, landed: LiveDag) -> None:
        loop = landed.worker("loop", fault="bump fails at its end")

        assert loop["error"] is None
        (warning,) = loop["logged"]
        assert warning.startswith("WARNING: dagbump has failed: too late.")
        assert landed.tis()["D"] == (None, 2)  # by Airflow's own code

        assert landed.worker("loop")["logged"] == ["INFO: dagbump works again"]
        assert landed.tis() == DONE

    def test_a_run_whose_latest_version_is_locked_waits(self, landed: LiveDag, airflow_url: URL) -> None:
        with psycopg.connect(server.libpq(airflow_url)) as other:
            other.execute("SELECT FROM dag_version WHERE id = %s FOR UPDATE", (landed.versions()[2],))
            loop = landed.worker("loop")
            assert landed.tis() == BEFORE
            assert landed.worker("loop")["logged"] == []
        (line,) = loop["logged"]
        assert line.startswith(
            f"WARNING: The latest version (2) of DAG {landed.dag_id} is locked by another transaction,"
        )

        landed.worker("loop")
        assert landed.tis() == DONE

    def test_a_run_that_waits_is_timed_out_all_the_same(self, dag: LiveDag, airflow_url: URL) -> None:
        pass_the_timeout(dag)

        with psycopg.connect(server.libpq(airflow_url)) as other:
            other.execute("SELECT FROM dag_version WHERE id = %s FOR UPDATE", (dag.versions()[2],))
            assert dag.worker("loop")["error"] is None

        assert dag.tis() == dict.fromkeys("ABC", ("skipped", 1))

    def test_a_locked_ti_is_moved_by_a_later_loop(self, landed: LiveDag, airflow_url: URL) -> None:
        with psycopg.connect(server.libpq(airflow_url)) as other:
            other.execute("SELECT FROM task_instance WHERE dag_id = %s AND task_id = 'B' FOR UPDATE", (landed.dag_id,))
            landed.worker("loop")
            assert landed.tis() == DONE | {"B": ("running", 1)}

        landed.worker("loop")
        assert landed.tis() == DONE


class TestMetrics:
    def test_a_loop_reports_through_airflows_stats(
        self, landed: LiveDag, statsd: socket.socket, airflow_url: URL
    ) -> None:
        with psycopg.connect(server.libpq(airflow_url)) as other:
            other.execute("SELECT FROM task_instance WHERE dag_id = %s AND task_id = 'B' FOR UPDATE", (landed.dag_id,))
            drain(statsd)
            landed.worker("loop")

        sent = received(statsd, 5)

        assert sent["airflow.dagbump.verify"] == "1|c"
        assert sent["airflow.dagbump.task_instances_bumped"] == "1|c"
        assert sent["airflow.dagbump.task_instances_locked"] == "1|c"
        milliseconds, kind = sent["airflow.dagbump.bump"].split("|")
        assert kind == "ms"
        assert float(milliseconds) > 0
        seconds, kind = sent["airflow.dagbump.oldest_look"].split("|")
        assert kind == "g"
        assert float(seconds) >= 0

    def test_a_verify_that_is_skipped_is_counted(self, dag: LiveDag, statsd: socket.socket) -> None:
        dag.start(V1, {"A": "success", "B": "running"})
        dag.write(V1, description="reworded")
        drain(statsd)
        dag.worker("loop")

        assert received(statsd, 4)["airflow.dagbump.verify_skipped"] == "1|c"

    def test_a_fallback_is_counted(
        self, landed: LiveDag, statsd: socket.socket, airflow_url: URL, connection: psycopg.Connection[Any]
    ) -> None:
        connection.execute("ALTER SCHEMA dagbump RENAME TO elsewhere")
        try:
            drain(statsd)
            landed.worker("loop")
        finally:
            reinstall(airflow_url, connection)

        assert received(statsd, 2)["airflow.dagbump.fallback"] == "1|c"


def pass_the_timeout(dag: LiveDag) -> None:
    """Start a run, let a version land, and let the dagrun_timeout of the run pass."""
    timeout = "dagrun_timeout=timedelta(hours=1)"
    dag.write(V1, arguments=timeout)
    dag.run = dag.start_another_run()
    dag.worker("set_states", run=dag.run, states=dict.fromkeys("ABC", "scheduled"))
    dag.write(V2, arguments=timeout)
    dag.connection.execute("UPDATE dag_run SET start_date = now() - interval '2 hours' WHERE id = %s", (dag.run,))


def reinstall(url: URL, connection: psycopg.Connection[Any]) -> None:
    """Put dagbump back as the migration makes it."""
    connection.execute("DROP SCHEMA IF EXISTS elsewhere CASCADE")
    connection.execute("DROP SCHEMA IF EXISTS dagbump CASCADE")
    installer.upgrade(dagbump_database.create_engine(server.libpq(url)))


def everything_of(dag: LiveDag) -> list[tuple[Any, ...]]:
    """Return all that is in the task instances of a DAG, and which transaction wrote them."""
    return dag.connection.execute(
        "SELECT xmin, ti.* FROM task_instance AS ti WHERE dag_id = %s ORDER BY id", (dag.dag_id,)
    ).fetchall()


def drain(statsd: socket.socket) -> None:
    """Throw away what has been received so far. On loopback, everything that was sent has arrived."""
    statsd.setblocking(False)
    try:
        while statsd.recv(65536):
            pass
    except BlockingIOError:
        statsd.settimeout(5)


def received(statsd: socket.socket, count: int) -> dict[str, str]:
    """Wait for so many metrics of dagbump."""
    metrics: dict[str, str] = {}
    while len(metrics) < count:
        for line in statsd.recv(65536).decode().splitlines():
            name, _, value = line.partition(":")
            if name.startswith("airflow.dagbump."):
                metrics[name] = value
    return metrics
