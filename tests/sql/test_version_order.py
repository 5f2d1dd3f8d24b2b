"""A DAG whose version with the highest number, dagbump's latest, is not the newest, which is Airflow's up to 3.2.

A scheduler without the plugin moves back what dagbump moves. The cause is two DAG processors whose clocks differ:
https://github.com/apache/airflow/issues/68389
"""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import dagbump
import psycopg
import pytest
from support.fleet import Fleet
from support.processes import CHECKOUT
from support.releases import environments

pytestmark = pytest.mark.tables

Connection = psycopg.Connection[Any]

AIRFLOW_GOES_BY_CREATION = environments.number() < (3, 3)

# created_at of versions 1, 2 and 3, of which 3 is dagbump's latest; whether Airflow may take another one for it.
ORDERS = {
    "as it should be": (("2026-01-01", "2026-01-02", "2026-01-03"), False),
    "older ones in disorder": (("2026-01-02", "2026-01-01", "2026-01-03"), False),
    "the one before is newer": (("2026-01-01", "2026-01-04", "2026-01-03"), True),
    "the first is the newest": (("2026-01-05", "2026-01-02", "2026-01-03"), True),
    "all at one time": (("2026-01-03", "2026-01-03", "2026-01-03"), True),
    "two at one time": (("2026-01-01", "2026-01-03", "2026-01-03"), True),
}


def versions(fleet: Fleet, order: str, dag_id: str = "d") -> list[UUID]:
    fleet.dag(dag_id)
    created, _ = ORDERS[order]
    return [fleet.version(dag_id, number, created_at=f"{at}T00:00:00Z") for number, at in enumerate(created, start=1)]


def left_to_airflow(order: str) -> bool:
    return AIRFLOW_GOES_BY_CREATION and ORDERS[order][1]


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("order", ORDERS)
class TestEachOrder:
    def test_the_safe_form_leaves_a_run_that_airflow_would_move_back(
        self, order: str, fleet: Fleet, connection: Connection
    ) -> None:
        first, _, latest = versions(fleet, order)
        run = fleet.run("d")
        fleet.ti(run, latest, "success")
        stale = fleet.tis(run, first, ["scheduled", None])

        (seen,) = dagbump.preview(connection)
        (row,) = dagbump.bump(connection).runs

        if left_to_airflow(order):
            assert (seen.verdict, seen.stale) == ("needs_verify", 2)
            assert (row.dag_run_id, row.bumped, row.locked, row.needs_verify) == (run, 0, 0, True)
            assert fleet.versions_of(stale) == [first, first]
            assert connection.execute("SELECT txid_current_if_assigned()").fetchone() == (None,)  # nothing was written
        else:
            assert (seen.verdict, seen.stale) == ("bump", 2)
            assert (row.dag_run_id, row.bumped, row.locked, row.needs_verify) == (run, 2, 0, False)
            connection.commit()
            assert fleet.versions_of(stale) == [latest, latest]

    def test_a_run_with_nothing_stale_is_in_no_answer(self, order: str, fleet: Fleet, connection: Connection) -> None:
        _, _, latest = versions(fleet, order)
        run = fleet.run("d")
        fleet.tis(run, latest, ["success", "running", None])

        assert dagbump.bump(connection).runs == ()
        assert dagbump.preview(connection) == ()
        (row,) = dagbump.bump(connection, report_all=True).runs
        assert (row.dag_run_id, row.needs_verify) == (run, False)

    def test_who_verifies_himself_moves_it(self, order: str, fleet: Fleet, connection: Connection) -> None:
        """This is a scheduler with the plugin. Nobody moves the TI back."""
        first, _, latest = versions(fleet, order)
        run = fleet.run("d")
        fleet.ti(run, latest, "success")
        stale = fleet.ti(run, first, "scheduled")

        (seen,) = dagbump.preview(connection, caller_verifies=True)
        assert seen.verdict == "bump"
        (row,) = dagbump.bump(connection, caller_verifies=True).runs
        assert (row.bumped, row.needs_verify) == (1, False)
        connection.commit()
        assert fleet.versions_of([stale]) == [latest]

    def test_a_repair_leaves_it_too(self, order: str, fleet: Fleet) -> None:
        first, _, latest = versions(fleet, order)
        run = fleet.run("d")
        fleet.ti(run, latest, "success")
        stale = fleet.ti(run, first, "scheduled")

        found = fleet.execute("SELECT dag_run_id, task_instances, needs_verify FROM dagbump.repairable()").fetchall()
        assert found == [(run, 1, left_to_airflow(order))]
        fleet.execute("CALL dagbump.repair()")
        assert fleet.versions_of([stale]) == [first if left_to_airflow(order) else latest]

    def test_check_names_the_dag(self, order: str, fleet: Fleet, connection: Connection) -> None:
        versions(fleet, order)
        assert version_order(connection).ok  # no run is running
        fleet.run("d")
        fleet.dag("another", versions=2)
        fleet.run("another")

        item = version_order(connection)

        assert item.ok is not left_to_airflow(order)
        if not item.ok:
            assert "differ for: d. " in item.detail
            assert "docs/stuck-runs.md" in item.detail


def version_order(connection: Connection) -> dagbump.CheckItem:
    return next(item for item in dagbump.check(connection) if item.item == "version order")


def test_other_dags_are_bumped_by_the_same_call(fleet: Fleet, connection: Connection) -> None:
    for dag_id, order in (("apart", "the first is the newest"), ("in order", "as it should be")):
        first, _, latest = versions(fleet, order, dag_id)
        run = fleet.run(dag_id)
        fleet.ti(run, latest, "success")
        fleet.ti(run, first, "scheduled")

    rows = {row.dag_id: (row.bumped, row.needs_verify) for row in dagbump.bump(connection).runs}

    assert rows == {"apart": (0, True) if AIRFLOW_GOES_BY_CREATION else (1, False), "in order": (1, False)}


@pytest.mark.parametrize("order", ORDERS)
def test_the_statements_of_the_document_put_the_versions_in_order(
    order: str, fleet: Fleet, connection: Connection
) -> None:
    versions(fleet, order)
    versions(fleet, order, "not named")
    fleet.run("d")
    before = created(fleet, "not named")
    document = (CHECKOUT / "docs" / "stuck-runs.md").read_text("utf-8")
    (block,) = [
        block for block in re.findall(r"```sql\n(.*?)```", document, re.DOTALL) if "UPDATE dag_version" in block
    ]

    fleet.connection.execute(block.replace("'etl'", "'d'").encode())

    assert version_order(connection).ok
    newest_first = sorted(created(fleet, "d").items(), key=lambda item: item[1], reverse=True)
    assert newest_first[0][0] == 3
    assert len(set(created(fleet, "d").values())) == 3 or not ORDERS[order][1]
    assert created(fleet, "not named") == before
    serialized = fleet.execute(
        "SELECT version.version_number FROM {schema}.serialized_dag AS serialized "
        "JOIN {schema}.dag_version AS version ON version.id = serialized.dag_version_id "
        "WHERE version.dag_id = 'd' ORDER BY serialized.created_at DESC LIMIT 1"
    ).fetchall()
    assert serialized == [(3,)]


def created(fleet: Fleet, dag_id: str) -> dict[int, Any]:
    rows = fleet.execute("SELECT version_number, created_at FROM {schema}.dag_version WHERE dag_id = %s", dag_id)
    return dict(rows.fetchall())
