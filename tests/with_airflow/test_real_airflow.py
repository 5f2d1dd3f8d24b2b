"""dagbump beside and inside Airflow's own code: real DAG files, written, run and verified by a real release.

The release is `environments.release`. Airflow runs in its own environment (support/inside_airflow/components.py). The
test reads the effects from the database.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy.engine import URL
from support import server
from support.releases import environments
from support.releases.live_dag import LiveDag, Tis
from support.releases.worker import Worker, start_worker

pytestmark = pytest.mark.airflow

RELEASE = environments.number()
# From 3.2 on the scheduler's bulk UPDATE passes over task instances whose state is NULL.
STOCK_FORGETS_NULL = RELEASE >= (3, 2)
# Up to 3.0 the scheduler creates the task instances of a mapped task that has grown without a version.
EXPANDS_WITHOUT_VERSION = RELEASE < (3, 1)


@pytest.fixture(scope="module")
def worker(airflow_url: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    environment = {
        "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",  # a new version at once
        "PGOPTIONS": "-c lock_timeout=3s",  # what waits for a lock fails: nobody else would end its transaction
    }
    with start_worker(environments.release(), airflow_url, tmp_path_factory.mktemp("airflow"), environment) as worker:
        yield worker


@pytest.fixture
def dag(worker: Worker, airflow_url: URL) -> Iterator[LiveDag]:
    with psycopg.connect(server.libpq(airflow_url), autocommit=True) as connection:
        dag = LiveDag(worker, connection)
        yield dag
        dag.finish()


V1 = 'task("A") >> task("B") >> task("C")'
V2 = 'task("A") >> task("B") >> task("C") >> task("D")'
V3 = 'task("A") >> task("B") >> task("C") >> task("D") >> task("E")'


@pytest.fixture
def worked_example(dag: LiveDag) -> LiveDag:
    """A and B have succeeded and C is scheduled when a second version of the DAG adds D."""
    dag.start(V1, {"A": "success", "B": "success", "C": "scheduled"})
    dag.write(V2)
    assert dag.tis() == {"A": ("success", 1), "B": ("success", 1), "C": ("scheduled", 1)}
    return dag


DONE: Tis = {"A": ("success", 1), "B": ("success", 1), "C": ("scheduled", 2), "D": (None, 2)}
D_WAS_NEVER_CREATED: Tis = {"A": ("success", 1), "B": ("success", 1), "C": ("scheduled", 2)}


class TestWorkedExample:
    def test_a_scheduler_with_dagbump_moves_c_and_airflow_creates_d(self, worked_example: LiveDag) -> None:
        dag = worked_example

        assert dag.dagbump_loop() == [(dag.run, 2, 1, 0, True)]
        assert dag.tis() == DONE
        assert dag.dagbump_loop() == []
        assert dag.safe_bump() == []

    def test_the_stock_scheduler_finds_nothing_left_to_do(self, worked_example: LiveDag) -> None:
        dag = worked_example
        dag.dagbump_loop()

        dag.stock_loop()

        assert dag.tis() == DONE

    def test_the_safe_form_moves_nothing_and_says_why(self, worked_example: LiveDag) -> None:
        dag = worked_example
        before = dag.tis()

        assert dag.safe_bump() == [(dag.run, 2, 0, 0, True)]
        assert dag.tis() == before

    def test_the_safe_form_beside_a_stock_scheduler_ends_in_the_same_state(self, worked_example: LiveDag) -> None:
        dag = worked_example
        dag.safe_bump()

        dag.stock_loop()

        assert dag.safe_bump() == []
        assert dag.tis() == DONE


def test_the_safe_form_does_not_move_what_a_stock_scheduler_moves_back(dag: LiveDag) -> None:
    """Up to 3.2 Airflow goes by created_at, and here the version with the highest number is not the newest."""
    dag.start(V1, {})
    dag.write(V1, description="the second")
    dag.dagbump_loop()
    dag.worker("set_states", run=dag.run, states={"A": "success", "B": "scheduled", "C": "scheduled"})
    dag.connection.execute(
        "UPDATE dag_version SET created_at = created_at + interval '1 day' WHERE (dag_id, version_number) = (%s, 1)",
        (dag.dag_id,),
    )
    dag.stock_loop()
    moved = {"A": ("success", 2), "B": ("scheduled", 1), "C": ("scheduled", 1)}
    kept = {"A": ("success", 2), "B": ("scheduled", 2), "C": ("scheduled", 2)}
    assert dag.tis() == (moved if RELEASE < (3, 3) else kept)
    before = dag.rows()

    for _ in range(3):
        assert dag.safe_bump() == ([(dag.run, 2, 0, 0, True)] if RELEASE < (3, 3) else [])
        dag.stock_loop()

    assert dag.rows() == before


C_WAITED: Tis = {"A": ("success", 1), "B": ("running", 2), "C": (None, 2), "D": (None, 2)}


class TestStateNull:
    """C waits for B, so that its state is still NULL when the second version arrives."""

    @pytest.fixture
    def dag(self, dag: LiveDag) -> LiveDag:
        dag.start(V1, {"A": "success", "B": "running"})
        dag.write(V2)
        return dag

    def test_a_scheduler_with_dagbump_moves_it(self, dag: LiveDag) -> None:
        assert dag.dagbump_loop() == [(dag.run, 2, 2, 0, True)]
        assert dag.tis() == C_WAITED

    def test_the_stock_scheduler_forgets_it_from_3_2_on_and_a_safe_bump_mends_that(self, dag: LiveDag) -> None:
        dag.stock_loop()
        dag.stock_loop()

        assert dag.tis() == C_WAITED | {"C": (None, 1 if STOCK_FORGETS_NULL else 2)}
        assert dag.safe_bump() == ([(dag.run, 2, 1, 0, False)] if STOCK_FORGETS_NULL else [])
        assert dag.tis() == C_WAITED


class TestTrap:
    """The reason for the safe form: after a bump without verify_integrity, Airflow takes the run for verified."""

    def test_after_a_plain_update_airflow_never_creates_d(self, worked_example: LiveDag) -> None:
        dag = worked_example
        dag.connection.execute(
            "UPDATE task_instance SET dag_version_id = %s WHERE dag_id = %s AND task_id = 'C'",
            (dag.versions()[2], dag.dag_id),
        )

        dag.stock_loop()

        assert dag.tis() == D_WAS_NEVER_CREATED

    def test_nor_after_a_bump_whose_caller_did_not_verify(self, worked_example: LiveDag) -> None:
        dag = worked_example
        assert dag.dagbump_loop(verify=False) == [(dag.run, 2, 1, 0, True)]

        dag.stock_loop()

        assert dag.tis() == D_WAS_NEVER_CREATED

    def test_the_next_version_brings_d_along(self, worked_example: LiveDag) -> None:
        dag = worked_example
        dag.dagbump_loop(verify=False)
        dag.write(V3)

        assert dag.dagbump_loop() == [(dag.run, 3, 1, 0, True)]
        assert dag.tis() == DONE | {"C": ("scheduled", 3), "D": (None, 3), "E": (None, 3)}


class TestKindsOfChange:
    def test_a_version_that_changes_no_task(self, dag: LiveDag) -> None:
        dag.start('task("A") >> task("B")', {"A": "success", "B": "queued"})
        dag.write('task("A") >> task("B")', description="reworded")

        assert dag.dagbump_loop() == [(dag.run, 2, 1, 0, True)]
        assert dag.tis() == {"A": ("success", 1), "B": ("queued", 2)}
        assert dag.dagbump_loop() == []

    def test_a_removed_task_is_moved_and_left_to_airflow_to_remove(self, dag: LiveDag) -> None:
        dag.start(V1, {"A": "success", "B": "running", "C": "scheduled"})
        dag.write('task("A") >> task("B")')

        assert dag.dagbump_loop() == [(dag.run, 2, 2, 0, True)]
        assert dag.tis() == {"A": ("success", 1), "B": ("running", 2), "C": ("scheduled", 2)}
        dag.stock_loop()
        assert dag.tis()["C"] == ("removed", 2)
        assert dag.safe_bump() == []

    def test_of_a_mapped_task_the_unfinished_ones_move(self, dag: LiveDag) -> None:
        dag.start(
            'mapped("m", ["true"] * 5)', {"m[0]": "success", "m[1]": "running", "m[2]": "failed", "m[3]": "queued"}
        )
        dag.write('mapped("m", ["true"] * 5) >> mapped("n", ["true"] * 2)')

        assert dag.dagbump_loop() == [(dag.run, 2, 3, 0, True)]
        assert dag.tis() == {
            "m[0]": ("success", 1),
            "m[1]": ("running", 2),
            "m[2]": ("failed", 1),
            "m[3]": ("queued", 2),
            "m[4]": (None, 2),
            "n[0]": (None, 2),
            "n[1]": (None, 2),
        }
        assert dag.dagbump_loop() == []

    def test_of_a_mapped_task_that_has_shrunk_airflow_removes_the_surplus(self, dag: LiveDag) -> None:
        dag.start('mapped("m", ["true"] * 3)', {"m[0]": "success", "m[1]": "running"})
        dag.write('mapped("m", ["true"] * 2)')

        assert dag.dagbump_loop() == [(dag.run, 2, 2, 0, True)]
        assert dag.tis() == {"m[0]": ("success", 1), "m[1]": ("running", 2), "m[2]": ("removed", 2)}
        assert dag.dagbump_loop() == []

    def test_of_a_mapped_task_that_has_grown_the_new_ones_come_to_the_version_too(self, dag: LiveDag) -> None:
        dag.start('mapped("m", ["true"] * 2)', {"m[0]": "success"})
        dag.write('mapped("m", ["true"] * 3)')

        assert dag.dagbump_loop() == [(dag.run, 2, 1, 0, True)]
        dag.stock_loop()  # expands, and in 3.0 creates TIs without a version
        assert dag.tis()["m[2]"] == ("scheduled", None if EXPANDS_WITHOUT_VERSION else 2)
        assert dag.safe_bump() == ([(dag.run, 2, 1, 0, False)] if EXPANDS_WITHOUT_VERSION else [])
        assert dag.tis() == {"m[0]": ("success", 1), "m[1]": ("scheduled", 2), "m[2]": ("scheduled", 2)}


def test_the_orms_objects_show_the_new_version_without_a_refresh(worked_example: LiveDag) -> None:
    dag = worked_example
    v1, v2 = dag.versions()[1], dag.versions()[2]

    before, after = dag.worker("tis_across_a_bump", run=dag.run, pending={"C": "queued"})

    assert before == {"A": ["success", v1, 1], "B": ["success", v1, 1], "C": ["scheduled", v1, 1]}
    assert after == {"A": ["success", v1, 1], "B": ["success", v1, 1], "C": ["queued", v2, 2]}
    assert dag.tis() == {"A": ("success", 1), "B": ("success", 1), "C": ("queued", 2)}


@pytest.fixture
def v2_in_use(worked_example: LiveDag) -> LiveDag:
    """Besides the run of the example there is one that began on the second version."""
    worked_example.start_another_run()
    return worked_example


class TestDagProcessorAtTheSameTime:
    """Neither waits for the other, and neither fails. A wait would end with an error of the worker's lock_timeout.

    If a committed task instance is on the latest version, the DAG processor adds a version; else it rewrites the latest
    one. If it rewrites it while a verify_integrity is not yet committed, added tasks are never created in that run. The
    stock loop has the same fault.
    """

    @pytest.mark.parametrize("loop", ["stock_verify", "dagbump_verify"])
    def test_it_adds_a_version_while_a_scheduler_is_at_work(self, v2_in_use: LiveDag, loop: str) -> None:
        dag = v2_in_use
        dag.worker(loop)

        dag.write(V3)
        dag.commit("scheduler")

        assert dag.tis() == DONE
        assert dag.versions().keys() == {1, 2, 3}
        dag.dagbump_loop()
        assert dag.tis() == DONE | {"C": ("scheduled", 3), "D": (None, 3), "E": (None, 3)}

    @pytest.mark.parametrize("loop", ["stock_verify", "dagbump_verify"])
    def test_it_changes_a_version_while_a_scheduler_is_at_work(self, worked_example: LiveDag, loop: str) -> None:
        dag = worked_example
        dag.worker(loop)

        dag.write(V3)
        dag.commit("scheduler")

        assert dag.tis() == DONE
        assert dag.versions().keys() == {1, 2}
        assert dag.dagbump_loop() == []
        dag.stock_loop()
        assert dag.tis() == DONE

    def test_a_scheduler_bumps_while_it_adds_a_version(self, v2_in_use: LiveDag) -> None:
        dag = v2_in_use
        dag.write(V3, commit=False)

        assert dag.open_dagbump_loop() == [(dag.run, 2, 1, 0, True)]
        dag.commit("scheduler")
        dag.commit("dag processor")

        assert dag.tis() == DONE
        assert dag.versions().keys() == {1, 2, 3}

    def test_a_scheduler_bumps_while_it_changes_a_version(self, worked_example: LiveDag) -> None:
        dag = worked_example
        dag.write(V3, commit=False)

        assert dag.open_dagbump_loop() == [(dag.run, 2, 1, 0, True)]
        dag.commit("scheduler")
        dag.commit("dag processor")

        assert dag.tis() == DONE
        assert dag.versions().keys() == {1, 2}

    def test_because_the_lock_of_each_leaves_room_for_the_others(self, v2_in_use: LiveDag) -> None:
        dag = v2_in_use
        dag.open_dagbump_loop()
        assert dag.locks_to_be_had(2) == ["KEY SHARE", "SHARE", "NO KEY UPDATE"]
        dag.commit("scheduler")

        dag.write(V3, commit=False)
        assert dag.locks_to_be_had(2) == ["KEY SHARE"]
