"""What the optional index costs everybody else: life cycles of task instances per second, without it and with it."""

from __future__ import annotations

import re
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy.engine import URL
from support.server import run_client

from benchmarks.database import connect, vacuum
from benchmarks.measure import Progress, Spread
from benchmarks.plan import Plan

_CLIENTS = 2

# Each statement a transaction, as the scheduler and the API server write them (DagRun.verify_integrity, schedule_tis,
# SchedulerJobRunner._executable_task_instances_to_queued, and the Execution API's ti_run and ti_update_state). What
# Airflow reads in between is left out, all but the row locks: with it, the share of the index would be smaller.
_SCRIPT = """\
{insert} RETURNING id \\gset
UPDATE task_instance SET state = 'scheduled', scheduled_dttm = clock_timestamp(), try_number = 1,
    updated_at = clock_timestamp() WHERE id IN (':id');
UPDATE task_instance SET state = 'queued', queued_dttm = clock_timestamp(), queued_by_job_id = 1,
    updated_at = clock_timestamp() WHERE id IN (':id');
BEGIN;
SELECT state, dag_id, run_id, task_id, map_index FROM task_instance WHERE id = ':id' FOR UPDATE;
UPDATE task_instance SET state = 'running', start_date = clock_timestamp(), end_date = NULL, hostname = 'worker',
    unixname = 'airflow', pid = 1, last_heartbeat_at = clock_timestamp(), updated_at = clock_timestamp()
    WHERE id = ':id';
COMMIT;
BEGIN;
SELECT state, try_number, max_tries, dag_id FROM task_instance WHERE id = ':id' FOR UPDATE;
UPDATE task_instance SET state = 'success', end_date = clock_timestamp(), duration = 1,
    updated_at = clock_timestamp() WHERE id = ':id';
COMMIT;
"""


@dataclass(frozen=True)
class LifeCycles:
    """Life cycles per second.

    Attributes:
        without_index: without the index.
        with_index: with it.
        lost: the share that the index costs, by pairs of neighbouring runs: 0.03 is 3 %.
        lost_error: how far the median of the pairs may be off (its standard error).
    """

    without_index: Spread
    with_index: Spread
    lost: Spread
    lost_error: float


def measure_life_cycles(without_index: URL, with_index: URL, plan: Plan, progress: Progress) -> LifeCycles:
    """Run the load on two databases that hold the same fleet, in turns."""
    urls = (without_index, with_index)
    with connect(without_index) as plain, connect(with_index) as indexed, tempfile.TemporaryDirectory() as directory:
        connections = (plain, indexed)
        script = Path(directory) / "life_cycle.sql"
        for connection in connections:
            connection.execute("CREATE SEQUENCE life_cycle")
        script.write_text(_SCRIPT.format(insert=_insert(plain)), encoding="utf-8")
        for url in urls:
            _tps(url, script, 1)
        results: tuple[list[float], list[float]] = ([], [])
        for number in range(plan.life_cycle_pairs):
            progress(f"life cycles, pair {number + 1} of {plan.life_cycle_pairs}")
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                vacuum(connections[which])
                results[which].append(_tps(urls[which], script, plan.life_cycle_seconds))
    lost = [1 - with_it / without for without, with_it in zip(*results, strict=True)]
    return LifeCycles(Spread.of(results[0]), Spread.of(results[1]), Spread.of(lost), _median_error(lost))


def _insert(connection: psycopg.Connection[Any]) -> str:
    """Write the INSERT of a TI as Airflow made the others: another map_index of a task of the first run."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM task_instance WHERE state IS NULL AND run_id = 'run_1' ORDER BY task_id LIMIT 1")
        row = cursor.fetchone()
        if row is None or cursor.description is None:
            raise LookupError("the fleet has no TI without a state")
        values = {column.name: value for column, value in zip(cursor.description, row, strict=True)}
    given: dict[str, sql.Composable] = {
        name: sql.Literal(value)
        for name, value in values.items()
        if isinstance(value, str | int | float) and value is not None
    }
    given |= {
        "id": sql.SQL("gen_random_uuid()"),
        "map_index": sql.SQL("nextval('life_cycle')"),
        "dag_version_id": sql.Literal(str(values["dag_version_id"])),
        "updated_at": sql.SQL("clock_timestamp()"),
    }
    statement = sql.SQL("INSERT INTO task_instance ({}) VALUES ({})").format(
        sql.SQL(", ").join(map(sql.Identifier, given)), sql.SQL(", ").join(given.values())
    )
    return statement.as_string(connection)


def _tps(url: URL, script: Path, seconds: int) -> float:
    # --no-vacuum: pgbench would vacuum tables of its own, which are not there. Simple queries, as psycopg2 sends.
    options = ("--no-vacuum", "--protocol=simple", f"--client={_CLIENTS}", f"--jobs={_CLIENTS}", f"--time={seconds}")
    printed = run_client("pgbench", url, *options, f"--file={script}")
    found = re.search(r"^tps = ([\d.]+)", printed, re.MULTILINE)
    if found is None:
        raise ValueError(f"pgbench has not said how fast it was:\n{printed}")
    return float(found[1])


def _median_error(values: Sequence[float]) -> float:
    """Estimate the standard error of a median: 1.2533 times that of a mean."""
    return 1.2533 * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("inf")
