"""`make bench`: the part of a scheduler's loop that is about versions: stock Airflow, dagbump and two baselines."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy.engine import URL
from support.releases.worker import Worker
from support.server import run_client

from benchmarks.bench import QUIET, Bench, Stage, connect
from benchmarks.contenders import Airflow, BareUpdate, Bump, Contender
from benchmarks.figures import Cost, LifeCycles, Results, Spread, figure
from benchmarks.fleet import scalar, vacuum
from benchmarks.measure import measure_steady, measure_version_change
from benchmarks.plan import LARGEST_RUN, STOCK

RELEASES, SETTINGS = STOCK, QUIET
_VARIANTS = {"plain": False, "indexed": True}  # with the optional index
_CLIENTS = 2

# Returns an INSERT of a TI like those that Airflow made, with another map_index.
_INSERT = """
    SELECT format(
        'INSERT INTO task_instance (id, map_index, updated_at, %s)
         VALUES (gen_random_uuid(), nextval(''life_cycle''), clock_timestamp(), %s)',
        string_agg(quote_ident(key), ', '), string_agg(quote_literal(value), ', ')
    )
    FROM (SELECT * FROM task_instance WHERE state IS NULL ORDER BY id LIMIT 1) AS ti
    CROSS JOIN jsonb_each_text(jsonb_strip_nulls(to_jsonb(ti)) - '{id,map_index,updated_at}'::text[])
"""

# The life cycle of a TI, written as the scheduler and the API server write it (DagRun.verify_integrity, schedule_tis,
# SchedulerJobRunner._executable_task_instances_to_queued, and the Execution API's ti_run and ti_update_state). Without
# Airflow's reads, except for row locks; with them, the index would cost a smaller share.
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


def measure(bench: Bench) -> Results:
    """Measure one fleet after the other, with all contenders in turns."""
    start = time.perf_counter()
    found = Results({}, [], {"steady": {}, "version change": {}})
    greetings: dict[str, dict[str, str]] = {}
    for size in sorted(bench.plan.loops):
        with bench.stage(size) as at:
            workers = {name: at.stock(name) for name in STOCK if size.tis <= LARGEST_RUN.get(name, size.tis)}
            greetings |= {release: worker.greeting for release, worker in workers.items()}
            if size == bench.plan.life_cycles:
                life_cycles = _life_cycles(bench, *_copy(at))
            for kind, costs in _measure(at, workers, bench).items():
                found.costs[kind][str(size)] = costs
    about = bench.describe(greetings) | {"seconds": round(time.perf_counter() - start)}
    return replace(found, machine=about, life_cycles=life_cycles)


def _copy(at: Stage) -> list[URL]:
    return [at.copy(name, STOCK[-1], with_index=with_index) for name, with_index in _VARIANTS.items()]


def _measure(at: Stage, workers: Mapping[str, Worker], bench: Bench) -> dict[str, dict[str, Cost]]:
    _copy(at)
    plain, indexed = ([at.connect(name, STOCK[-1]) for _ in range(2)] for name in _VARIANTS)
    loops: list[Contender] = [
        *(Airflow(f"stock-{name}", at.connect("stock", name), worker) for name, worker in workers.items()),
        Bump("dagbump", plain[0]),
        Bump("dagbump-index", indexed[0]),
    ]
    updates = [BareUpdate("update", plain[1]), BareUpdate("update-index", indexed[1])]
    return {
        "steady": measure_steady([*loops, Contender("select-1", plain[1])], bench),
        "version change": measure_version_change([*loops, *updates], bench),
    }


def _life_cycles(bench: Bench, without_index: URL, with_index: URL) -> LifeCycles:
    """Run the life-cycle load on two databases with the same fleet, in turns."""
    urls = (without_index, with_index)
    with connect(without_index) as plain, connect(with_index) as indexed, TemporaryDirectory() as directory:
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
    # The standard error of a median is about 1.2533 times that of a mean.
    error = 1.2533 * statistics.stdev(lost) / len(lost) ** 0.5
    without, with_it, share = map(Spread.of, (*results, lost))
    return LifeCycles(str(bench.plan.life_cycles), without, with_it, share, figure(error))


def _tps(url: URL, script: Path) -> float:
    # --no-vacuum: pgbench's own tables do not exist here. The simple protocol is that of psycopg2.
    options = ("--no-vacuum", "--protocol=simple", f"--client={_CLIENTS}", f"--jobs={_CLIENTS}", "--time=1")
    printed = run_client("pgbench", url, *options, f"--file={script}")
    found = re.search(r"^tps = ([\d.]+)", printed, re.MULTILINE)
    if found is None:
        raise ValueError(f"pgbench printed no tps:\n{printed}")
    return float(found[1])
