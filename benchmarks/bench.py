"""Runs a benchmark: one fleet after the other, all contenders beside each other."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy.engine import URL
from support.releases import environments
from support.releases.worker import Worker
from support.server import Server

from benchmarks import fleet, machine
from benchmarks.contenders import BareUpdate, Bump, Contender, SelectOne, Stock, start_airflow
from benchmarks.database import connect, install, recreate, start_server
from benchmarks.lifecycle import measure_life_cycles
from benchmarks.measure import Progress, measure_steady, measure_version_change
from benchmarks.plan import Plan, Shape
from benchmarks.results import FleetCosts, Results

_RELEASES = ("3.1.6", "3.3.2")
_DAGBUMP_ON = "3.3.2"  # on whose schema dagbump and the baselines are measured

_TEMPLATES = {release: f"bench_template_{release}" for release in _RELEASES}
_STOCK = {release: f"bench_stock_{release}" for release in _RELEASES}
_DAGBUMP = {"bench_plain": False, "bench_indexed": True}  # whether with the index


def run(plan: Plan, progress: Progress) -> Results:
    """Do it all, on a server that is there only for this, or is left as it was."""
    start = time.perf_counter()
    with ExitStack() as stack:
        progress("PostgreSQL starts")
        server = stack.enter_context(start_server())
        observer = stack.enter_context(server.maintenance())
        for name in (*_DAGBUMP, *_STOCK.values(), *_TEMPLATES.values()):
            stack.callback(server.drop_database, name)
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dagbump-bench-")))
        progress("Airflow makes its schemas, and starts")
        _at_once(_RELEASES, lambda release: _migrate(server, release, home / release))
        most_runs = max(shape.runs for shape in plan.shapes)
        workers = {
            release: stack.enter_context(start_airflow(release, server.database(name), home / release, most_runs))
            for release, name in _STOCK.items()
        }
        for worker in workers.values():
            worker("take_times")
        bench = _Bench(plan, server, workers, observer)
        steady, version_change = [], []
        for shape in plan.shapes:
            say = _prefixed(progress, shape)
            bench.make_fleet(shape, say)
            if shape == plan.life_cycle_shape:
                life_cycles = measure_life_cycles(*bench.install_dagbump(), plan, say)
            unchanged, changed = bench.measure_loops(shape, say)
            steady.append(unchanged)
            version_change.append(changed)
        seconds = round(time.perf_counter() - start)
        return Results(machine.describe(server, workers), seconds, sorted(steady), sorted(version_change), life_cycles)


def _prefixed(progress: Progress, shape: Shape) -> Progress:
    return lambda message: progress(f"{shape}: {message}")


def _at_once(releases: Iterable[str], work: Callable[[str], None]) -> None:
    """Do the same for each release; each has its own process and its own database, and most of it is waiting."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(work, releases))


def _migrate(server: Server, release: str, home: Path) -> None:
    home.mkdir()
    environments.migrate(release, recreate(server, _TEMPLATES[release], "template0"), home)
    recreate(server, _STOCK[release], _TEMPLATES[release])


@dataclass(frozen=True)
class _Bench:
    """What it takes to measure a fleet."""

    plan: Plan
    server: Server
    workers: dict[str, Worker]
    observer: psycopg.Connection[Any]

    def make_fleet(self, shape: Shape, progress: Progress) -> None:
        """Put a fleet in the place of every worker's database."""
        progress("Airflow makes the fleet")
        releases = [name for name in _RELEASES if name == _DAGBUMP_ON or shape.is_for(name)]
        _at_once(releases, lambda release: self._make_fleet_of(shape, release))

    def install_dagbump(self) -> tuple[URL, URL]:
        """Copy that fleet, and install dagbump without the index and with it."""
        urls = [recreate(self.server, name, _STOCK[_DAGBUMP_ON]) for name in _DAGBUMP]
        for url, with_index in zip(urls, _DAGBUMP.values(), strict=True):
            install(url, with_index=with_index)
            with closing(connect(url)) as connection:
                connection.execute("VACUUM (ANALYZE)")
        return urls[0], urls[1]

    def measure_loops(self, shape: Shape, progress: Progress) -> tuple[FleetCosts, FleetCosts]:
        """Measure steady loops, and loops after a version change, on that fleet."""
        plain, indexed = self.install_dagbump()
        with ExitStack() as stack:

            def to(url: URL) -> psycopg.Connection[Any]:
                return stack.enter_context(closing(connect(url)))

            loops: list[Contender] = [
                *(
                    Stock(worker, to(self.server.database(_STOCK[release])))
                    for release, worker in self.workers.items()
                    if shape.is_for(release)
                ),
                Bump("dagbump", to(plain), to(plain)),
                Bump("dagbump-index", to(indexed), to(indexed)),
            ]
            select = SelectOne("select-1", to(plain), to(plain))
            update = BareUpdate("update", to(plain), to(plain))
            update_index = BareUpdate("update-index", to(indexed), to(indexed))
            steady = measure_steady([*loops, select], self.plan, self.observer, progress)
            changed = measure_version_change([*loops, update, update_index], self.plan, self.observer, progress)
        return FleetCosts(shape.runs, shape.tis, steady), FleetCosts(shape.runs, shape.tis, changed)

    def _make_fleet_of(self, shape: Shape, release: str) -> None:
        worker = self.workers[release]
        worker("disconnect")
        url = recreate(self.server, _STOCK[release], _TEMPLATES[release])
        worker("connect")
        with closing(connect(url)) as connection:
            fleet.make(shape, worker, connection)
        worker("disconnect")  # a template for other databases must have no users
