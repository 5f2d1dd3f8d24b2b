"""The story: a DAG version lands, and another one, while the scheduler loops.

The demo plays the scheduler. Each loop is one call of ``dagbump.bump`` on one connection that stays open; it
verifies the runs that the answer names, in the same transaction, and commits.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from dagbump.client import bump
from dagbump.demo import fleet
from dagbump.demo.measuring import Cost, Meter
from dagbump.errors import DagbumpError
from dagbump.results import BumpResult


@dataclass(frozen=True)
class Loop:
    """One loop of the story.

    Attributes:
        title: what happened before it, or during it.
        result: what the bump answered.
        created: TIs that verify_integrity created afterwards.
        cost: what the call of the bump cost.
    """

    title: str
    result: BumpResult
    created: int
    cost: Cost


def play(engine: sa.engine.Engine, runs: int, tis: int, meter: Meter) -> list[Loop]:
    """Play the story in a database that holds a fleet on version 1.

    Raises:
        DagbumpError: dagbump did something else than the story says.
    """
    with engine.connect() as connection, engine.connect() as others:
        with others.begin():
            before = fleet.take_census(others)
        scheduler = _Scheduler(connection, meter)
        scheduler.loop("Nothing has changed", bumped=0)

        with others.begin():
            fleet.land_version(others, tis, fleet.NEW_TASK)
        scheduler.loop(
            "Version 2 lands, with a new task; a cron job calls the safe form",
            bumped=0,
            to_verify=runs,
            caller_verifies=False,
        )
        scheduler.loop("The scheduler calls, and verifies", bumped=before.unfinished, to_verify=runs)
        scheduler.loop("Nothing has changed", bumped=0)

        with others.begin():
            fleet.land_version(others, tis, fleet.NEW_TASK)
        with others.begin():  # the API server's transaction: it ends, and lets go of the TIs, after the loop
            held = fleet.hold_running_tis(others, in_runs=max(1, runs // 4))
            scheduler.loop(
                "Version 3 lands; another transaction holds some TIs",
                bumped=before.unfinished + runs - held,  # by now there is a new TI in each run
                locked=held,
                to_verify=runs,
            )
        scheduler.loop("That transaction has ended", bumped=held)
        scheduler.loop("Nothing has changed", bumped=0)

        with others.begin():
            _check(before, fleet.take_census(others), runs)
    return scheduler.loops


class _Scheduler:
    """Calls the bump, verifies, commits; and compares what it is told with what has to be."""

    def __init__(self, connection: sa.engine.Connection, meter: Meter) -> None:
        self.loops: list[Loop] = []
        self._connection = connection
        self._meter = meter

    def loop(
        self, title: str, *, bumped: int, locked: int = 0, to_verify: int = 0, caller_verifies: bool = True
    ) -> None:
        result, cost = self._meter(lambda: bump(self._connection, caller_verifies=caller_verifies))
        answered = (result.bumped, result.locked, len(result.needs_verify))
        if answered != (bumped, locked, to_verify):
            raise DagbumpError(
                f"the demo failed. {title}: bumped, locked and to verify were {answered}, "
                f"and should have been {(bumped, locked, to_verify)}."
            )
        due = [run.dag_run_id for run in result.needs_verify]
        created = fleet.verify_integrity(self._connection, due) if caller_verifies else 0
        self._connection.commit()
        self.loops.append(Loop(title, result, created, cost))


def _check(before: fleet.Census, after: fleet.Census, runs: int) -> None:
    """Look at the end state in the database, whatever the bumps have said."""
    expected = fleet.Census(
        unfinished=before.unfinished + runs,  # the TIs of the new task
        stateless=before.stateless + runs,
        stale=0,
        finished=before.finished,
        finished_on_first=before.finished,
        left_alone=before.left_alone,
        left_alone_on_first=before.left_alone,
    )
    if after != expected:
        raise DagbumpError(f"the demo failed. In the database there is {after}; there should be {expected}.")
