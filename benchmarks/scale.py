"""`make bench-scale`: a large database, with a version per second; and several schedulers at once.

The database is on disk and commits wait for the disk. `--data DIRECTORY` keeps it, because filling it takes an hour.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import dagbump
from dagbump import database
from dagbump.installation import installer
from sqlalchemy.engine import URL
from support.fleet import Fleet
from support.releases import environments
from support.server import libpq

from benchmarks import large, schedulers
from benchmarks.bench import Bench, connect, database_name
from benchmarks.contenders import Contender, select_one
from benchmarks.figures import Row, Tables, figure
from benchmarks.fleet import Connection, scalar
from benchmarks.measure import Samples, steady_turns, turns
from benchmarks.on_disk import MAY_DROP_CACHES, OnDisk
from benchmarks.plan import LOOP_RUNS, Plan

RELEASES = (environments.release(),)
SETTINGS = {"max_connections": "50", "max_wal_size": "4GB", "shared_buffers": "2GB"}
_INDEX = "dagbump_ti_unfinished"
_STALE = """
    SELECT count(*), array_agg(ti.id)::text, array_agg(latest.id)::text
    FROM dag_run AS run
    JOIN task_instance AS ti USING (dag_id, run_id)
    CROSS JOIN LATERAL (
        SELECT id FROM dag_version WHERE dag_id = run.dag_id ORDER BY version_number DESC LIMIT 1
    ) AS latest
    WHERE run.state = 'running' AND run.id = ANY (coalesce(%s, ARRAY[run.id]))
    AND ti.state IS DISTINCT FROM 'success' AND ti.dag_version_id <> latest.id
"""
_UPDATE = """
    UPDATE task_instance AS ti SET dag_version_id = new.version, updated_at = clock_timestamp()
    FROM unnest(%s::uuid[], %s::uuid[]) AS new (id, version) WHERE ti.id = new.id
"""
_SIZES = """
    SELECT (SELECT reltuples FROM pg_class WHERE oid = 'task_instance'::regclass), pg_table_size('task_instance'),
        pg_indexes_size('task_instance'), pg_database_size(current_database())
"""
_BLOAT = f"""
    SELECT pg_table_size('task_instance'), pg_indexes_size('task_instance'), pg_table_size('{_INDEX}'),
        pg_total_relation_size('dagbump.history'), n_dead_tup, autovacuum_count
    FROM pg_stat_user_tables WHERE relname = 'task_instance'
"""
_RUNS_OF_FIRST_DAG = "SELECT id FROM dag_run WHERE state = 'running' AND dag_id = 'dag_000'"
_LSN = "SELECT pg_current_wal_insert_lsn() - '0/0'"


@dataclass(frozen=True)
class Scope:
    """The running runs that a call is about."""

    name: str
    ids: list[int] | None  # None: all
    dag_ids: list[str]

    def bump(self, connection: Connection) -> None:
        dagbump.bump(connection, dag_run_ids=self.ids, caller_verifies=True)

    def land(self, connection: Connection) -> None:
        """Add a version of each DAG."""
        with connection.transaction():
            versions = Fleet(connection)
            for dag_id in self.dag_ids:
                versions.copy_latest_version(dag_id)

    def update(self, connection: Connection) -> tuple[int, Callable[[Connection], object]]:
        """Return the number of stale TIs, and a bare UPDATE of them. Their ids are found before the clock starts."""
        ((count, *parameters),) = connection.execute(_STALE, (self.ids,))
        return count, lambda own: own.cursor().execute(_UPDATE, parameters, prepare=False)


def measure(bench: Bench) -> Tables:
    """Measure the large database, and then the schedulers, on one server."""
    assert isinstance(bench.server, OnDisk)
    start = time.perf_counter()
    with bench.stage(bench.plan.schedulers, AIRFLOW__SCHEDULER__MAX_DAGRUNS_PER_LOOP_TO_SCHEDULE=str(LOOP_RUNS)) as at:
        stock = at.stock(RELEASES[0])
        about = bench.describe({RELEASES[0]: stock.greeting})  # before a restart ends the observer's connection
        url = large.load(bench, bench.server, database_name("stock", RELEASES[0]))
        bench.server.restart(SETTINGS)
        tables = _large(url, bench, bench.server)
        tables["ten times"] = list(_ten_times(tables, bench.plan))
        tables["schedulers"] = schedulers.measure(at, stock, bench)
    return Tables(about | {"seconds": round(time.perf_counter() - start)}, tables)


def _large(url: URL, bench: Bench, server: OnDisk) -> dict[str, list[Row]]:
    engine = database.create_engine(libpq(url))
    with connect(url) as connection:
        if scalar(connection, "SELECT to_regnamespace('dagbump')"):
            installer.downgrade(engine)  # an earlier measurement
        installer.upgrade(engine)
        (sizes,) = connection.execute(_SIZES).fetchall()
        scopes = _scopes(connection)
    tables: dict[str, list[Row]] = {"warm": [], "cold": [], "once": []}
    for variant in ("without", "with"):
        if variant == "with":
            build = partial(installer.upgrade, engine, installer.NEWEST_INDEX)
            tables["once"].append(_once("building the optional index", build, bench))
        for scope in scopes:
            what = {"running runs": scope.name, "optional index": variant}
            with connect(url) as connection:
                tables["warm"].append(what | _warm(scope, connection, bench))
            tables["cold"].append(what | _cold(scope, url, bench, server))
    with connect(url) as connection:
        scopes[-1].land(connection)  # so that all running runs have stale TIs
        for call in (dagbump.preview, dagbump.check, dagbump.versions):
            tables["once"].append(_once(f"`{call.__name__}`", partial(call, connection), bench))
        tables |= _one_per_second(connection, bench)
    engine.dispose()
    names = ("finished and unfinished TIs", "task_instance, GB", "its indexes, GB", "the whole database, GB")
    tables["size"] = [dict(zip(names, (str(f"{sizes[0]:,.0f}"), *(size / 1e9 for size in sizes[1:])), strict=True))]
    return tables


def _scopes(connection: Connection) -> list[Scope]:
    running = "SELECT id, dag_id FROM dag_run WHERE state = 'running' ORDER BY dag_id, id"
    runs = connection.execute(running.encode()).fetchall()
    second = [run for run, dag_id in runs if dag_id == "dag_001"]
    all_dags = sorted({dag_id for _, dag_id in runs})
    return [
        *(Scope(f"{count}", second[:count], ["dag_001"]) for count in (1, LOOP_RUNS)),
        Scope(f"{len(runs):,}", None, all_dags),
    ]


def _warm(scope: Scope, connection: Connection, bench: Bench) -> Row:
    dagbump.bump(connection, caller_verifies=True)  # the other runs of the DAGs
    bump = Contender("dagbump", connection, scope.bump)
    steady = [Samples(bump), Samples(Contender("select-1", connection))]
    steady_turns(steady, bench)
    change = [Samples(bump), Samples(Contender("update", connection))]
    wal: list[list[float]] = [[], []]
    for mine in turns(change, bench.plan.large_change, bench.say, f"{scope.name} runs, version change"):
        scope.land(connection)
        tis, update = scope.update(connection)
        mine.contender = bump if mine is change[0] else Contender("update", connection, update)
        start = scalar(connection, _LSN)
        mine.rounds.append([mine.contender.loop()])
        wal[change.index(mine)].append(float(scalar(connection, _LSN) - start))
    return {
        "steady, ms": _median(steady[0]),
        "to `SELECT 1`": _ratio(steady),
        "TIs moved": tis,
        "version change, ms": _median(change[0]),
        "to bare UPDATE": _ratio(change),
        "WAL, kB": figure(statistics.median(wal[0]) / 1000),
        "of the UPDATE": figure(statistics.median(wal[1]) / 1000),
    }


def _cold(scope: Scope, url: URL, bench: Bench, server: OnDisk) -> Row:
    """Measure first calls after a restart."""

    def first(what: str, *, changed: bool = True, bare: bool = False) -> float:
        bench.say(f"{scope.name} runs, {what} after a restart")
        with connect(url) as connection:
            dagbump.bump(connection, caller_verifies=True)
            if changed:
                scope.land(connection)
            update = scope.update(connection)[1] if bare else scope.bump
        server.restart(SETTINGS, drop_caches=bench.plan.drop_caches)
        with connect(url) as connection:
            select_one(connection)
            return figure(Contender(what, connection, update).loop().ms)

    bump, update = first("a version change"), first("a bare UPDATE", bare=True)
    dropped = bench.plan.drop_caches and MAY_DROP_CACHES
    return {
        "caches dropped": "the server's and Linux's" if dropped else "the server's",
        "steady, ms": first("a steady call", changed=False),
        "version change, ms": bump,
        "bare UPDATE, ms": update,
        "ratio": figure(bump / update),
    }


def _once(what: str, work: Callable[[], Any], bench: Bench) -> Row:
    bench.say(f"{what}, once")
    start = time.perf_counter()
    answer = work()
    seconds = time.perf_counter() - start
    return {"": what, "rows": f"{len(answer):,}" if isinstance(answer, tuple) else "", "seconds": figure(seconds)}


def _one_per_second(connection: Connection, bench: Bench) -> dict[str, list[Row]]:
    """Let a version of a DAG land every second, and bump its runs, as a scheduler would."""
    seconds = bench.plan.versions_seconds
    bench.say(f"a version per second, for {seconds} seconds")
    ids = [run for (run,) in connection.execute(_RUNS_OF_FIRST_DAG)]
    scope = Scope("", ids, ["dag_000"])
    scope.land(connection)
    tis, _ = scope.update(connection)
    scope.bump(connection)
    bump, before, taken, wal = Contender("dagbump", connection, scope.bump), _bloat(connection), [], []
    start = time.monotonic()
    for second in range(seconds):
        time.sleep(max(0.0, start + second - time.monotonic()))
        scope.land(connection)
        lsn = scalar(connection, _LSN)
        taken.append(bump.loop().ms)
        wal.append(float(scalar(connection, _LSN) - lsn))
    connection.execute("SELECT pg_stat_force_next_flush()")
    percent = statistics.quantiles(taken, n=100, method="inclusive")
    calls = {
        "versions": seconds,
        "TIs moved by each": tis,
        "median, ms": figure(statistics.median(taken)),
        "99 % within": figure(percent[-1]),
        "longest": figure(max(taken)),
        "median of the first minute": figure(statistics.median(taken[:60])),
        "of the last": figure(statistics.median(taken[-60:])),
        "WAL per call, kB: median": figure(statistics.median(wal) / 1000),
        "mean": figure(statistics.mean(wal) / 1000),
    }
    after = _bloat(connection)
    return {
        "version per second": [calls],
        "bloat": [{"": what, "before": old, "after": after[what]} for what, old in before.items()],
    }


def _bloat(connection: Connection) -> dict[str, float | str]:
    (row,) = connection.execute(_BLOAT).fetchall()
    names = (
        *("task_instance, MB", "its indexes, MB", "of them the optional one, MB", "dagbump.history, MB"),
        *("dead rows of task_instance", "autovacuums of it"),
    )
    density: float | str = "not measured"
    if scalar(connection, "SELECT count(*) FROM pg_available_extensions WHERE name = 'pgstattuple'"):
        connection.execute("CREATE EXTENSION IF NOT EXISTS pgstattuple")
        density = scalar(connection, f"SELECT avg_leaf_density FROM pgstatindex('{_INDEX}')")
    sizes = (*(figure(size / 1e6) for size in row[:4]), *row[4:])
    return dict(zip(names, sizes, strict=True)) | {"the optional index: percent of its leaves in use": density}


def _ten_times(tables: dict[str, list[Row]], plan: Plan) -> Iterator[Row]:
    """Calculate, from what was measured, a database with ten times the TIs, runs and versions."""

    def row(what: str, because: str, now: float, then: float | None = None) -> Row:
        return {"": what, "because": because, "now": now, "ten times, calculated": figure(then or 10 * now)}

    once = {each[""]: each["seconds"] for each in tables["once"]}
    yield row("the whole database, GB", "rows and entries of indexes", tables["size"][0]["the whole database, GB"])
    for what in ("building the optional index", "`versions`"):
        yield row(f"{what}, seconds", "it reads the whole table or index", once[what])
    few, many = LOOP_RUNS, plan.large.runs
    for variant in ("without", "with"):
        for column in ("steady, ms", "version change, ms"):
            _, of_few, of_many = (each[column] for each in tables["warm"] if each["optional index"] == variant)
            slope = (of_many - of_few) / (many - few)
            what = f"all runs in one call, {variant} the optional index: {column}"
            yield row(what, f"{slope:.3g} ms per run, from {few} to {many:,} runs", of_many, of_many + slope * 9 * many)
    hours = plan.finished_tis / 5 / tables["version per second"][0]["TIs moved by each"] / 3600
    yield row("hours of a version per second, until autovacuum comes", "20 % of the rows are dead", figure(hours))


def _median(samples: Samples) -> float:
    return figure(statistics.median(timing.ms for round_ in samples.rounds for timing in round_))


def _ratio(samples: list[Samples]) -> float:
    """Return the ratio of the first to the second, round by round."""
    mine, others = ([statistics.median(timing.ms for timing in round_) for round_ in of.rounds] for of in samples)
    return figure(statistics.median(one / other for one, other in zip(mine, others, strict=False)))
