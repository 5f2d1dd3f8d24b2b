"""Fifty runs under two schedulers while version after version of their DAGs lands, and what came of it, in figures."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from support.releases.deployment import Deployment

LANDINGS = 5
EMPTY_DAGS = 4
RUNS_OF_EACH = 12
STEPS = 12
BASH_RUNS = 2
BASH_STEPS = 3
RUNS = EMPTY_DAGS * RUNS_OF_EACH + BASH_RUNS

UNFINISHED = "(ti.state IS NULL OR ti.state NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed'))"


@dataclass
class Load:
    """Fifty runs of five DAGs under two schedulers, while version after version lands, each with one more task.

    Attributes:
        ended: how many runs have ended, by state.
        settled: for each landing, how many task instances were unfinished, and how many of these stale, when none was
            stale any more, or `settling_seconds` had passed.
        settled_after: for each landing, after how many seconds that was.
        moved_after_their_end: how many finished task instances were later seen on another version.
        ran_outdated: how many started on a version that had not been the latest for seconds.
        lack_tasks: how many runs ended with other tasks than the newest version that they had come to.
        seconds: how long all of it took.
        logs: what the schedulers logged of dagbump, each.
        deadlocks: how many the server has seen.
        ended_before_their_version: how many task instances ended on a version that was not there yet.
        versions: how many versions of a DAG task instances ended on, at most.
    """

    deployment: Deployment
    prefix: str
    settling_seconds: float
    ended: dict[str, int] = field(default_factory=dict)
    settled: list[tuple[int, int]] = field(default_factory=list)
    settled_after: list[float] = field(default_factory=list)
    moved_after_their_end: int = 0
    ran_outdated: int = 0
    lack_tasks: int = 0
    seconds: float = 0.0
    logs: list[list[str]] = field(default_factory=list)
    deadlocks: int = 0
    ended_before_their_version: int = 0
    versions: int = 0

    def carry(self, *, dagbump: bool | None) -> None:
        """Start the schedulers, and stay until every run has ended."""
        deadlocks = self._deadlocks()
        with ExitStack() as stack:
            schedulers = [stack.enter_context(self.deployment.scheduler(dagbump=dagbump)) for _ in range(2)]
            self._land(0)
            began = time.monotonic()
            runs = [self.deployment.create_run(dag_id) for dag_id in self._dag_ids()]
            finished: dict[object, object] = {}
            for landing in range(1, LANDINGS + 1):
                self._land(landing)
                self._settle()
                finished = self._finished() | finished
            self.deployment.until_ended(*runs)
            self.seconds = time.monotonic() - began
        self.logs = [scheduler.logged("dagbump ") for scheduler in schedulers]
        self.moved_after_their_end = len(finished.items() - self._finished().items())
        self.ended = dict(self._rows("SELECT state, count(*) FROM dag_run WHERE dag_id LIKE %(like)s GROUP BY 1"))
        self.ran_outdated = self._ran_outdated()
        self.lack_tasks = self._lack_tasks()
        self.ended_before_their_version = self._ended_before_their_version()
        self.versions = self._versions()
        self.deadlocks = self._deadlocks() - deadlocks

    def figures(self) -> str:
        settled = [
            f"{stale} of {unfinished} after {seconds:.1f} s"
            for (unfinished, stale), seconds in zip(self.settled, self.settled_after, strict=True)
        ]
        return (
            f"{self.prefix}: runs ended: {self.ended}, in {self.seconds:.0f} s; deadlocks: {self.deadlocks}; "
            f"stale of unfinished task instances after each landing: {', '.join(settled)}; "
            f"task instances that ran on an outdated version: {self.ran_outdated}; "
            f"runs that lack tasks: {self.lack_tasks}"
        )

    def _ended_before_their_version(self) -> int:
        # A task reports its end, and the API server may write it down a little later.
        return self._count(
            """
            SELECT count(*) FROM task_instance AS ti JOIN dag_version AS version ON version.id = ti.dag_version_id
            WHERE ti.dag_id LIKE %(like)s AND version.created_at > ti.end_date + interval '1 second'
            """
        )

    def _ran_outdated(self) -> int:
        # A loop has its versions from its beginning.
        return self._count(
            """
            SELECT count(*) FROM task_instance AS ti JOIN dag_version AS version ON version.id = ti.dag_version_id
            WHERE ti.dag_id LIKE %(like)s AND EXISTS (
                SELECT FROM dag_version AS newer
                WHERE newer.dag_id = ti.dag_id AND newer.version_number > version.version_number
                    AND newer.created_at < ti.start_date - interval '5 seconds'
            )
            """
        )

    def _lack_tasks(self) -> int:
        return self._count(
            """
            SELECT count(*)
            FROM (
                SELECT ti.dag_id, ti.run_id, count(*) AS tasks, max(version.version_number) AS version_number
                FROM task_instance AS ti JOIN dag_version AS version ON version.id = ti.dag_version_id
                WHERE ti.dag_id LIKE %(like)s GROUP BY 1, 2
            ) AS run
            JOIN dag_version AS version USING (dag_id, version_number)
            JOIN serialized_dag AS serialized ON serialized.dag_version_id = version.id
            WHERE jsonb_array_length(serialized.data::jsonb #> '{dag,tasks}') <> run.tasks
            """
        )

    def _versions(self) -> int:
        return self._count(
            """
            SELECT count(DISTINCT version.version_number)
            FROM task_instance AS ti JOIN dag_version AS version ON version.id = ti.dag_version_id
            WHERE ti.dag_id LIKE %(like)s
            """
        )

    def _dag_ids(self) -> list[str]:
        """Return a dag_id for each run; the DAGs take turns."""
        empty = [f"{self.prefix}_{number}" for number in range(EMPTY_DAGS)]
        return [f"{self.prefix}_bash"] * BASH_RUNS + empty * RUNS_OF_EACH

    def _land(self, landing: int) -> None:
        empty = f'chain(*[empty(f"step_{{n}}") for n in range({STEPS + landing})])'
        more = f'*[empty(f"more_{{n}}") for n in range({landing})]'
        bash = f'chain(*[task(f"step_{{n}}") for n in range({BASH_STEPS})], {more})'
        dags = {dag_id: bash if dag_id.endswith("bash") else empty for dag_id in self._dag_ids()}
        self.deployment.land(f"{self.prefix}.py", f"landing {landing}", dags)

    def _settle(self) -> None:
        """Wait until no unfinished task instance is stale, and record the counts."""
        landed = time.monotonic()
        while (counts := self._unfinished_and_stale())[1] and time.monotonic() < landed + self.settling_seconds:
            time.sleep(0.1)
        self.settled.append(counts)
        self.settled_after.append(time.monotonic() - landed)

    def _unfinished_and_stale(self) -> tuple[int, int]:
        ((unfinished, stale),) = self._rows(
            f"""
            SELECT count(*), count(*) FILTER (WHERE ti.dag_version_id IS DISTINCT FROM (
                SELECT id FROM dag_version WHERE dag_version.dag_id = ti.dag_id ORDER BY version_number DESC LIMIT 1
            ))
            FROM task_instance AS ti JOIN dag_run AS run USING (dag_id, run_id)
            WHERE run.state = 'running' AND ti.dag_id LIKE %(like)s AND {UNFINISHED}
            """
        )
        return unfinished, stale

    def _finished(self) -> dict[object, object]:
        """Return the versions of the finished task instances, by id."""
        return dict(
            self._rows(
                f"""
                SELECT ti.id, ti.dag_version_id FROM task_instance AS ti
                WHERE ti.dag_id LIKE %(like)s AND NOT {UNFINISHED}
                """
            )
        )

    def _deadlocks(self) -> int:
        return self._count("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")

    def _count(self, query: str) -> int:
        ((number,),) = self._rows(query)
        return int(number)

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.deployment.connection.execute(query.encode(), {"like": f"{self.prefix}_%"}).fetchall()
