"""A task that Airflow would never run, and how dagbump finds it."""

from __future__ import annotations

import sqlalchemy as sa

from dagbump.client import preview
from dagbump.demo import fleet
from dagbump.demo.loops import SchedulerLoop, run_once
from dagbump.errors import DagbumpError
from dagbump.results import RunPreview


def play(engine: sa.engine.Engine, airflows_loop: SchedulerLoop, runs: int, tis: int) -> RunPreview:
    """Play the story in a database that holds a fleet on version 1.

    Returns:
        The one run in which Airflow did not create the new task, as `dagbump.preview` shows it.

    Raises:
        DagbumpError: it went another way.
    """
    with engine.connect() as scheduler, engine.connect() as others:
        with others.begin():
            fleet.land_version(others, tis, fleet.NEW_TASK)
            fleet.clear_a_task_on_the_latest_version(others)
        created = 0
        for _ in range(2):  # the second loop shows that Airflow does not come back to it
            to_verify = run_once(scheduler, airflows_loop).to_verify
            with scheduler.begin():
                created += fleet.verify_integrity(scheduler, to_verify)
        with others.begin():
            found = _lacking_a_task(others)
            # The plugin does this in the scheduler.
            mended = fleet.verify_integrity(others, [run.dag_run_id for run in found])
            left = _lacking_a_task(others)
    if (created, len(found), mended, left) != (runs - 1, 1, 1, []):
        raise DagbumpError(
            f"the demo failed. Airflow created the new task in {created} of {runs} runs, preview found {len(found)} "
            f"without it, {mended} were mended, {len(left)} are still without it."
        )
    return found[0]


def _lacking_a_task(connection: sa.engine.Connection) -> list[RunPreview]:
    return [run for run in preview(connection) if run.verdict == "missing_tasks"]
