"""The runs that the button moves, of one page or of all pages of a filter, in batches."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from dagbump import client
from dagbump.airflow_plugin.page.filter import Filter
from dagbump.results import RunningRun
from dagbump.verdicts import FINE, verdict_of

# One request of the button moves at most so many runs or TIs, in one transaction. A run is not divided.
BATCH_RUNS = 250
_BATCH_TASK_INSTANCES = 5_000
_NAMED = 50


@dataclass(frozen=True)
class Plan:
    """The runs whose stale task instances are to be moved."""

    runs: Sequence[RunningRun]

    @property
    def task_instances(self) -> int:
        """The number of task instances that are moved if none is locked."""
        return sum(run.stale for run in self.runs)

    @property
    def running(self) -> int:
        """How many of them are running."""
        return sum(run.stale_running for run in self.runs)

    @property
    def queued_versionless(self) -> int:
        """How many of them are queued without a version."""
        return sum(run.queued_versionless for run in self.runs)

    @property
    def named(self) -> Sequence[RunningRun]:
        """The first runs, which the dialog names."""
        return self.runs[:_NAMED]

    @property
    def batches(self) -> list[list[int]]:
        """The ids of the runs, in the order given, in batches of one request each."""
        batches: list[list[int]] = []
        room = 0
        for run in self.runs:
            if not batches or run.stale > room or len(batches[-1]) == BATCH_RUNS:
                batches.append([])
                room = _BATCH_TASK_INSTANCES
            batches[-1].append(run.dag_run_id)
            room -= run.stale
        return batches


def movable(connection: sa.engine.Connection, dag_ids: Collection[str], wanted: Filter) -> list[RunningRun]:
    """Return the runs on all pages of a filter in which a bump moves something."""
    return [
        run
        for run in client.running(connection, dag_ids, wanted.search or None)
        if run.stale
        and verdict_of(run.verdict or FINE).is_moved
        and wanted.verdict in {"", run.verdict}
        and (not wanted.search or run.dag_found or run.run_found or run.task_found)
    ]
