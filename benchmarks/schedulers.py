"""Several real schedulers on one database, stock or with the plugin: a part of `make bench-scale`."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psutil
from support.releases.worker import Worker

from benchmarks import fleet
from benchmarks.bench import Bench, Stage
from benchmarks.figures import Row, figure
from benchmarks.fleet import Connection, scalar

_WAITS = """
    SELECT coalesce(wait_event_type, ''), count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid() GROUP BY 1
"""


def measure(at: Stage, stock: Worker, bench: Bench) -> list[Row]:
    """Let real schedulers loop over the same runs, with whole loops but nothing to execute."""
    release, plan, rows = stock.release, bench.plan, []
    at.copy("plugin", release)
    plugins = [at.worker("plugin", release, number) for number in range(max(plan.processes))]
    for plugin in plugins:
        plugin("turn_on")
    stocks = [stock, *(at.worker("stock", release, number) for number in range(1, max(plan.processes)))]
    sides = {"stock": (stocks, at.connect("stock", release)), "plugin": (plugins, at.connect("plugin", release))}
    for loop in ("steady", "a version per second"):
        for processes in plan.processes:
            for who, (workers, connection) in sides.items():
                bench.say(f"{processes} x {who}, {loop}")
                row = {"loop": loop, "who": who, "processes": f"{processes}"}
                took = _loops(workers[:processes], connection, plan.processes_seconds, landing=loop != "steady")
                rows.append(row | took)
    return rows


def _loops(workers: list[Worker], connection: Connection, seconds: int, *, landing: bool) -> Row:
    moved = "SELECT coalesce(sum(bumped), 0)::int FROM dagbump.history"
    is_plugin = scalar(connection, "SELECT to_regnamespace('dagbump') IS NOT NULL")
    waits, looks, landed = Counter[str](), 0, 0
    before = scalar(connection, moved) if is_plugin else 0
    psutil.cpu_percent()
    with ThreadPoolExecutor(len(workers)) as threads:
        start = time.monotonic()
        answers = [threads.submit(worker, "loop_for", seconds=seconds) for worker in workers]
        while not all(answer.done() for answer in answers):
            if landing and landed <= time.monotonic() - start:
                fleet.change_version(connection)
                landed += 1
            waits.update(dict(connection.execute(_WAITS).fetchall()))
            looks += 1
            time.sleep(0.05)
        took, busy = time.monotonic() - start, psutil.cpu_percent()
    loops, runs = (sum(answer.result()[what] for answer in answers) for what in ("loops", "runs"))
    return {
        "loops/s": figure(loops / took),
        "runs examined/s": figure(runs / took),
        "TIs moved by bumps/s": figure((scalar(connection, moved) - before) / took) if is_plugin else "-",
        "CPU busy, %": figure(busy),
        "sessions on a CPU": figure(waits[""] / looks),
        "waiting for a lock": figure((waits["Lock"] + waits["LWLock"]) / looks),
        "for the disk": figure(waits["IO"] / looks),
    }
