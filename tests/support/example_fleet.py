"""The database behind the documents' examples: 50 DAGs as a data team has them, some of them in trouble."""

from __future__ import annotations

from uuid import UUID

from support.fleet import Fleet

# DAGs that the documents name. The rest have numbers.
NAMED = ("etl", "reports", "finance.daily_reconciliation", "ml.train", "ingest.crm")
DAGS = 50
RUNS = 20  # dag_run.id 1 to 20, those of the scheduler's first loop, and more
TASKS = 12


def make(fleet: Fleet) -> dict[str, list[UUID]]:
    """Make the fleet, and return the versions of each DAG, by dag_id."""
    versions = {}
    for number in range(DAGS):
        dag_id = NAMED[number] if number < len(NAMED) else f"pipeline_{number:02}"
        versions[dag_id] = fleet.dag(dag_id, versions=2 + number % 3, is_paused=number == DAGS - 1)
    for number, (dag_id, (*older, latest)) in enumerate(versions.items()):
        if number > RUNS:
            continue
        pinned = {"bundle_version": "3f1c9a0", "created_dag_version_id": older[-1]} if dag_id == "ml.train" else {}
        run = fleet.run(dag_id, f"scheduled__2026-11-{number % 28 + 1:02}T00:00:00+00:00", **pinned)
        # Of every three runs one is up to date, one half moved, and one has not been verified yet.
        mine = (latest, older[-1], older[-1])[number % 3] if number else older[-1]
        fleet.tis(run, latest if number % 3 != 2 else mine, ["success"] * (TASKS // 3))
        fleet.tis(run, mine, ["scheduled", "queued", None, "up_for_retry"] * (TASKS // 6))
    return versions
