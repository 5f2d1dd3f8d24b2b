"""Runs that lack a task although Airflow takes them for verified: how this happens, what preview shows, and the repair.

Airflow takes a run for verified if a TI or a past try is on the latest version, even if the work was not done. Where
the code of a release cannot lead to such a run, the test writes the same rows itself. The loops are those of
SchedulerJobRunner, in a worker (inside_airflow/plugin.py) of the release that `environments.release` names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagbump
import psycopg
import pytest
from sqlalchemy.engine import URL
from support import server
from support.releases import environments
from support.releases.live_dag import LiveDag
from support.releases.worker import Worker, start_worker

pytestmark = pytest.mark.airflow

SCRIPT = Path(__file__).parents[1] / "support" / "inside_airflow" / "plugin.py"
RELEASE = tuple(map(int, environments.release().split(".")[:2]))

V1 = 'task("A") >> task("B") >> task("C")'
V2 = 'task("A") >> task("B") >> task("C") >> task("D")'
STATES = {"A": "success", "B": "running"}


@pytest.fixture(scope="module")
def worker(airflow_url: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    environment = {
        "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",  # a new version at once
        "AIRFLOW__DAGBUMP__ENABLED": "True",
    }
    home = tmp_path_factory.mktemp("airflow")
    with start_worker(environments.release(), airflow_url, home, environment, SCRIPT) as worker:
        yield worker


@pytest.fixture
def dag(worker: Worker, airflow_url: URL) -> Iterator[LiveDag]:
    """A run in which B runs and C waits; the scheduler is stock."""
    worker("stop_scheduler")
    with closing(psycopg.connect(server.libpq(airflow_url), autocommit=True)) as connection:
        dag = LiveDag(worker, connection)
        dag.start(V1, STATES)
        yield dag
        dag.finish()
    worker("stop_scheduler")


# ---- Ways to lose a task: each leaves a run that lacks D, and looks verified for version 2 ----


def clear_on_latest(dag: LiveDag) -> None:
    """A person clears A "on the latest version" in mid-run (issues 71425, 71455, 71458, 71687)."""
    dag.write(V2)
    dag.worker("clear", run=dag.run, task="A", on_latest=RELEASE >= (3, 1))
    if RELEASE < (3, 2):  # there it does so only where the run has ended
        execute(
            dag,
            "UPDATE task_instance SET dag_version_id = %s WHERE dag_id = %s AND task_id = 'A'",
            dag.versions()[2],
            dag.dag_id,
        )


def purge_for_want_of_a_heartbeat(dag: LiveDag) -> None:
    """The scheduler purges B, and stamps the latest version on it (61813, 68248)."""
    dag.write(V2)
    execute(
        dag,
        "UPDATE task_instance SET state = 'up_for_retry', end_date = now(), dag_version_id = %s "
        "WHERE dag_id = %s AND task_id = 'B'",
        dag.versions()[2],
        dag.dag_id,
    )


def delete_the_ti(dag: LiveDag) -> None:
    """Somebody deletes D (71540)."""
    dag.write(V2)
    dag.worker("loop")
    execute(dag, "DELETE FROM task_instance WHERE dag_id = %s AND task_id = 'D'", dag.dag_id)


def fail_to_verify(dag: LiveDag) -> None:
    """verify_integrity raises after the TIs were moved, and the scheduler is restarted."""
    dag.write(V2)
    dag.worker("loop", fault="verify raises")
    if RELEASE < (3, 2):  # there the loop is rolled back, and the next one verifies: as after a bump without a verify
        execute(
            dag,
            "UPDATE task_instance SET dag_version_id = %s WHERE dag_id = %s AND state IS DISTINCT FROM 'success'",
            dag.versions()[2],
            dag.dag_id,
        )


def rewrite_the_version(dag: LiveDag) -> None:
    """The DAG processor rewrites version 2 while a scheduler verifies the old one, and has not committed yet."""
    dag.write(V1, description="reworded")
    dag.worker("loop")
    file = dag.file(V2)
    execute(dag, "UPDATE task_instance SET dag_version_id = %s WHERE dag_id = %s", dag.versions()[1], dag.dag_id)
    dag.worker("write_dag", **file)
    assert sorted(dag.versions()) == [1, 2]
    execute(
        dag,
        "UPDATE task_instance SET dag_version_id = %s WHERE dag_id = %s AND state IS DISTINCT FROM 'success'",
        dag.versions()[2],
        dag.dag_id,
    )


def bump_without_a_verify(dag: LiveDag) -> None:
    """A caller promises to verify, and does not."""
    dag.write(V2)
    dag.worker("dagbump_verify", verify=False)
    dag.commit("scheduler")


def retry_on_the_latest(dag: LiveDag) -> None:
    """A past try of B was on version 2, as when one that was cleared on it is cleared again."""
    dag.write(V2)
    dag.worker("clear", run=dag.run, task="A")
    table, condition = (
        ("task_instance_history", "TRUE") if RELEASE < (3, 4) else ("task_instance", "working_set IS NULL")
    )
    execute(
        dag,
        f"UPDATE {table} SET dag_version_id = %s WHERE dag_id = %s AND {condition}",
        dag.versions()[2],
        dag.dag_id,
    )


WAYS: dict[str, Callable[[LiveDag], None]] = {
    way.__name__: way
    for way in (
        *([clear_on_latest] if RELEASE < (3, 4) else []),  # from there on, it verifies
        purge_for_want_of_a_heartbeat,
        delete_the_ti,
        fail_to_verify,
        rewrite_the_version,
        bump_without_a_verify,
        retry_on_the_latest,
    )
}


@pytest.mark.parametrize("way", WAYS)
def test_a_lost_task_is_shown_by_preview_and_mended_by_the_plugin(dag: LiveDag, way: str) -> None:
    WAYS[way](dag)

    for _ in range(2):  # Airflow's own code does nothing about it
        assert "D" not in dag.tis()
        assert shown(dag) == ("missing_tasks", ("D",))
        dag.worker("loop")

    dag.worker("start_scheduler")
    loop = dag.worker("loop")

    assert (loop["error"], loop["verified"]) == (None, [dag.run])
    assert dag.tis()["D"] == (None, 2)
    (line,) = loop["logged"]
    assert line.startswith("INFO: Run ")
    assert f" of DAG {dag.dag_id} lacked tasks, although Airflow took it for verified; " in line
    assert line.endswith(": D")
    assert shown(dag) is None
    assert dag.worker("loop")["verified"] == []
    assert dag.tis()["D"] == (None, 2)


@pytest.mark.skipif(RELEASE < (3, 4), reason="up to 3.3 clearing does lose the task: clear_on_latest, above")
def test_clearing_on_the_latest_version_loses_no_task(dag: LiveDag) -> None:
    dag.write(V2)
    dag.worker("clear", run=dag.run, task="A", on_latest=True)
    assert "D" in dag.tis()


def test_it_is_looked_for_once_in_an_interval(dag: LiveDag) -> None:
    dag.worker("start_scheduler")
    dag.write(V2)
    for _ in range(2):  # the next loop looks once more at runs that a loop has verified
        dag.worker("loop")
    execute(dag, "DELETE FROM task_instance WHERE dag_id = %s AND task_id = 'D'", dag.dag_id)

    assert [dag.worker("loop")["verified"] for _ in range(2)] == [[], []]
    dag.worker("let_the_interval_pass")
    assert [dag.worker("loop")["verified"] for _ in range(2)] == [[dag.run], []]
    assert dag.tis()["D"] == (None, 2)


def test_a_loop_looks_at_ten_dags_and_the_next_one_at_the_others(dag: LiveDag) -> None:
    dags = [dag, *(LiveDag(dag.worker, dag.connection) for _ in range(11))]
    for other in dags[1:]:
        other.start(V1, STATES)
    dag.connection.execute("DELETE FROM task_instance WHERE task_id = 'C'")
    dag.worker("start_scheduler")

    verified = [dag.worker("loop")["verified"] for _ in range(3)]

    assert [len(runs) for runs in verified] == [10, 2, 0]
    assert all("C" in each.tis() for each in dags)
    for other in dags[1:]:
        other.finish()


def test_never_where_the_interval_is_0(dag: LiveDag) -> None:
    bump_without_a_verify(dag)
    dag.worker("start_scheduler_with", misfit="missing_tasks_interval: 0")

    assert [dag.worker("loop")["verified"] for _ in range(2)] == [[], []]
    assert "D" not in dag.tis()


@pytest.mark.parametrize("updated_before", [False, True])
def test_not_where_the_latest_version_is_held(dag: LiveDag, airflow_url: URL, updated_before: bool) -> None:
    bump_without_a_verify(dag)
    dag.worker("start_scheduler")
    with psycopg.connect(server.libpq(airflow_url)) as other:
        if updated_before:
            other.execute("UPDATE dag_version SET last_updated = now() WHERE id = %s", (dag.versions()[2],))
        other.execute("SELECT FROM dag_version WHERE id = %s FOR UPDATE", (dag.versions()[2],))
        assert dag.worker("loop")["verified"] == []
    dag.worker("let_the_interval_pass")

    assert dag.worker("loop")["verified"] == [dag.run]
    assert dag.tis()["D"] == (None, 2)


def test_a_scope_that_fails_leaves_it_to_airflows_sign(dag: LiveDag) -> None:
    dag.worker("start_scheduler")
    dag.write(V2)
    execute(dag, "ALTER FUNCTION dagbump.verify_scope(bigint[]) RENAME TO other")
    try:
        loops = [dag.worker("loop") for _ in range(2)]
    finally:
        execute(dag, "ALTER FUNCTION dagbump.other(bigint[]) RENAME TO verify_scope")

    assert [loop["verified"] for loop in loops] == [[dag.run], []]
    (warning,) = [line for loop in loops for line in loop["logged"]]
    assert warning.startswith("WARNING: dagbump.verify_scope has failed: ")
    assert dag.tis() == {"A": ("success", 1), "B": ("running", 2), "C": (None, 2), "D": (None, 2)}


class TestVerifyOnlyWhatNeedsIt:
    @pytest.fixture
    def dag(self, dag: LiveDag) -> LiveDag:
        dag.worker("start_scheduler")
        dag.worker("loop")
        return dag

    def test_nothing_to_do(self, dag: LiveDag) -> None:
        dag.write(V1, description="reworded")

        loop = dag.worker("loop")

        assert (loop["verified"], loop["skipped"], loop["loaded_by_verifying"]) == ([], [dag.run], 0)
        assert dag.tis() == {"A": ("success", 1), "B": ("running", 2), "C": (None, 2)}
        assert dag.worker("loop")["skipped"] == []

    def test_a_new_task_loads_no_ti(self, dag: LiveDag) -> None:
        dag.write(V2)

        loop = dag.worker("loop")

        assert (loop["verified"], loop["skipped"], loop["loaded_by_verifying"]) == ([dag.run], [], 0)
        assert dag.tis()["D"] == (None, 2)

    def test_a_restored_task_loads_its_own(self, dag: LiveDag) -> None:
        dag.write(V2)
        dag.worker("loop")
        dag.write(V1)
        dag.worker("set_states", run=dag.run, states={"D": "removed"})
        dag.worker("loop")
        dag.write(V2)

        loop = dag.worker("loop")

        assert (loop["verified"], loop["skipped"], loop["loaded_by_verifying"]) == ([dag.run], [], 1)
        assert dag.tis()["D"][0] is None

    def test_mapped_tasks_load_theirs(self, dag: LiveDag) -> None:
        dag.write('task("A") >> task("B") >> task("C") >> mapped("m", ["true"] * 3)')
        dag.worker("loop")
        dag.write('task("A") >> task("B") >> task("C") >> mapped("m", ["true"] * 2)')

        loop = dag.worker("loop")

        loaded = 3 if RELEASE < (3, 4) else len(dag.tis())
        assert (loop["verified"], loop["skipped"], loop["loaded_by_verifying"]) == ([dag.run], [], loaded)
        assert dag.tis()["m[2]"] == ("removed", 3)

    def test_a_mutation_hook_sees_every_ti(self, dag: LiveDag) -> None:
        dag.write(V1, description="reworded")

        loop = dag.worker("loop", fault="mutation hook")

        assert (loop["verified"], loop["skipped"], loop["loaded_by_verifying"]) == ([dag.run], [], 3)

    def test_what_cannot_be_read_is_verified_as_ever(self, dag: LiveDag) -> None:
        dag.write(V1, description="reworded")
        loop = dag.worker("loop", fault="unreadable DAGs")

        assert (loop["verified"], loop["skipped"], loop["loaded_by_verifying"]) == ([dag.run], [], 3)

    def test_a_version_that_lands_after_the_bump_is_left_to_the_next_loop(self, dag: LiveDag) -> None:
        dag.write(V1, description="reworded")
        dag.start_another_run()  # a version that no TI refers to would be rewritten

        loop = dag.worker("loop", meanwhile=dag.file(V2), when="after the bump")

        assert dag.run in loop["verified"]  # the scope is for the later version
        assert "D" not in dag.tis()
        dag.worker("loop")
        assert dag.tis()["D"] == (None, 3)


def shown(dag: LiveDag) -> tuple[str, tuple[str, ...] | None] | None:
    """Return the run's row of preview; None if there is none."""
    rows = [(row.verdict, row.missing_tasks) for row in dagbump.preview(dag.connection, [dag.run])]
    return rows[0] if rows else None


def execute(dag: LiveDag, statement: str, *parameters: Any) -> None:
    dag.connection.execute(statement.encode(), parameters or None)
