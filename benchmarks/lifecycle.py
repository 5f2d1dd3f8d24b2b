"""What the optional index costs everybody else: life cycles of task instances per second, without it and with it."""

from __future__ import annotations

import re
import statistics
import tempfile
from pathlib import Path

from sqlalchemy.engine import URL
from support.server import run_client

from benchmarks.bench import Bench, connect
from benchmarks.fleet import scalar, vacuum
from benchmarks.results import LifeCycles, Spread, figure

_CLIENTS = 2

# Writes the INSERT of a TI as Airflow made the others: another map_index of a task of some run.
_INSERT = """
    SELECT format(
        'INSERT INTO task_instance (id, map_index, updated_at, %s)
         VALUES (gen_random_uuid(), nextval(''life_cycle''), clock_timestamp(), %s)',
        string_agg(quote_ident(key), ', '), string_agg(quote_literal(value), ', ')
    )
    FROM (SELECT * FROM task_instance WHERE state IS NULL ORDER BY id LIMIT 1) AS ti
    CROSS JOIN jsonb_each_text(jsonb_strip_nulls(to_jsonb(ti)) - '{id,map_index,updated_at}'::text[])
"""

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


def measure_life_cycles(bench: Bench, without_index: URL, with_index: URL) -> LifeCycles:
    """Run the load on two databases that hold the same fleet, in turns."""
    urls = (without_index, with_index)
    with connect(without_index) as plain, connect(with_index) as indexed, tempfile.TemporaryDirectory() as directory:
        connections = (plain, indexed)
        script = Path(directory) / "life_cycle.sql"
        script.write_text(_SCRIPT.format(insert=scalar(plain, _INSERT)), encoding="utf-8")
        for connection, url in zip(connections, urls, strict=True):
            connection.execute("CREATE SEQUENCE life_cycle")
            _tps(url, script)
        results: tuple[list[float], list[float]] = ([], [])
        for number in range(bench.plan.life_cycle_pairs):
            bench.say(f"life cycles, pair {number + 1} of {bench.plan.life_cycle_pairs}")
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                vacuum(connections[which])
                results[which].append(_tps(urls[which], script))
    lost = [1 - slowed / free for free, slowed in zip(*results, strict=True)]
    # The standard error of a median is estimated as 1.2533 times that of a mean.
    error = 1.2533 * statistics.stdev(lost) / len(lost) ** 0.5
    without, with_it, share = map(Spread.of, (*results, lost))
    return LifeCycles(bench.plan.life_cycles, without, with_it, share, figure(error))


def _tps(url: URL, script: Path) -> float:
    # --no-vacuum: pgbench would vacuum tables of its own, which are not there. Simple queries, as psycopg2 sends.
    options = ("--no-vacuum", "--protocol=simple", f"--client={_CLIENTS}", f"--jobs={_CLIENTS}", "--time=1")
    printed = run_client("pgbench", url, *options, f"--file={script}")
    found = re.search(r"^tps = ([\d.]+)", printed, re.MULTILINE)
    if found is None:
        raise ValueError(f"pgbench has not said how fast it was:\n{printed}")
    return float(found[1])
