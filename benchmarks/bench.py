"""Runs a benchmark: one fleet after the other, all sides beside each other."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy.engine import URL
from support.releases import environments
from support.releases.worker import Worker
from support.server import Server

from benchmarks import fleet, machine
from benchmarks.database import Observer, connect, install, recreate, start_server
from benchmarks.lifecycle import LifeCycles, measure_life_cycles
from benchmarks.measure import Cost, Progress, measure_landing, measure_steady
from benchmarks.plan import Plan, Shape
from benchmarks.results import Results
from benchmarks.sides import Side
from benchmarks.sides.bump import Bump
from benchmarks.sides.floors import BareUpdate, SelectOne
from benchmarks.sides.stock import Stock, start_worker

STOCK_RELEASES = ("3.1.6", "3.3.2")
DAGBUMP_ON = "3.3.2"  # on whose schema dagbump and the floors are measured

_PLAIN, _INDEXED = "bench_plain", "bench_indexed"


def run(plan: Plan, progress: Progress) -> Results:
    """Do it all, on a server that is there only for this."""
    start = time.perf_counter()
    with ExitStack() as stack:
        progress("PostgreSQL starts")
        server = stack.enter_context(start_server())
        observer = Observer(stack.enter_context(server.maintenance()))
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dagbump-bench-")))
        progress("Airflow makes its schemas")
        _at_once(STOCK_RELEASES, lambda release: _migrate(server, release, home / release))
        progress("Airflow starts")
        workers = {
            release: stack.enter_context(_worker(server, release, home / release, plan)) for release in STOCK_RELEASES
        }
        bench = _Bench(plan, server, workers, observer, progress)
        steady: dict[Shape, dict[str, Cost]] = {}
        landing: dict[Shape, dict[str, Cost]] = {}
        for shape in plan.shapes:
            bench.make_fleet(shape)
            if shape == plan.life_cycle_shape:
                life_cycles = bench.life_cycles(shape)
            steady[shape], landing[shape] = bench.loops(shape)
        bench.clean()
        return Results(
            machine.describe(server, workers),
            steady,
            landing,
            life_cycles,
            plan.life_cycle_shape,
            time.perf_counter() - start,
        )


def _template(release: str) -> str:
    return f"airflow_{release.replace('.', '_')}"


def _stock_database(release: str) -> str:
    return f"bench_stock_{release.replace('.', '_')}"


def _at_once(releases: Iterable[str], work: Callable[[str], None]) -> None:
    """Do the same for each release; each has its own process and its own database, and most of it is waiting."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(work, releases))


def _migrate(server: Server, release: str, home: Path) -> None:
    home.mkdir()
    environments.migrate(release, recreate(server, _template(release), "template0"), home)


@contextmanager
def _worker(server: Server, release: str, home: Path, plan: Plan) -> Iterator[Worker]:
    """Start a worker, on a database in whose place the fleets will be put."""
    url = recreate(server, _stock_database(release), _template(release))
    with start_worker(release, url, home, max(shape.runs for shape in plan.shapes)) as worker:
        yield worker


@dataclass(frozen=True)
class _Bench:
    """What it takes to measure a fleet."""

    plan: Plan
    server: Server
    workers: dict[str, Worker]
    observer: Observer
    progress: Progress

    def make_fleet(self, shape: Shape) -> None:
        """Put a fleet in the place of every worker's database."""
        self._saying(shape)("Airflow makes the fleet")
        releases = [name for name in self.workers if name == DAGBUMP_ON or self._measured(shape, name)]
        _at_once(releases, lambda release: self._make_fleet_of(shape, release))

    def life_cycles(self, shape: Shape) -> LifeCycles:
        """Measure what the index costs others, beside that fleet."""
        return measure_life_cycles(*self._dagbump_databases(shape), self.plan, self._saying(shape))

    def loops(self, shape: Shape) -> tuple[dict[str, Cost], dict[str, Cost]]:
        """Measure steady loops and landing ones, on that fleet."""
        say = self._saying(shape)
        plain, indexed = self._dagbump_databases(shape)
        with ExitStack() as stack:
            lent = _Connections(stack)
            stock: list[Side] = [
                Stock(worker, lent.to(self.server.database(_stock_database(release))))
                for release, worker in self.workers.items()
                if self._measured(shape, release)
            ]
            bumps: list[Side] = [
                Bump("dagbump", lent.to(plain), lent.to(plain)),
                Bump("dagbump-index", lent.to(indexed), lent.to(indexed)),
            ]
            select: Side = SelectOne("select-1", lent.to(plain), lent.to(plain))
            updates: list[Side] = [
                BareUpdate("update", lent.to(plain), lent.to(plain)),
                BareUpdate("update-index", lent.to(indexed), lent.to(indexed)),
            ]
            return (
                measure_steady([*stock, *bumps, select], self.plan, self.observer, say),
                measure_landing([*stock, *bumps, *updates], self.plan, self.observer, say),
            )

    def clean(self) -> None:
        """Drop all databases, for the sake of a server that is not a container."""
        for worker in self.workers.values():
            worker("disconnect")
        for name in (_PLAIN, _INDEXED, *map(_stock_database, self.workers), *map(_template, self.workers)):
            self.server.drop_database(name)

    def _measured(self, shape: Shape, release: str) -> bool:
        return shape.tis <= self.plan.largest_run.get(f"stock-{release}", shape.tis)

    def _make_fleet_of(self, shape: Shape, release: str) -> None:
        worker = self.workers[release]
        worker("disconnect")
        url = recreate(self.server, _stock_database(release), _template(release))
        worker("connect")
        with closing(connect(url)) as connection:
            fleet.make(shape, worker, connection)
        worker("disconnect")  # a template for other databases must have no users

    def _dagbump_databases(self, shape: Shape) -> tuple[URL, URL]:
        """Copy that fleet, and install dagbump without the index and with it."""
        self._saying(shape)("dagbump is installed beside the same fleet")
        urls = [recreate(self.server, name, _stock_database(DAGBUMP_ON)) for name in (_PLAIN, _INDEXED)]
        for url, with_index in zip(urls, (False, True), strict=True):
            install(url, with_index=with_index)
            with closing(connect(url)) as connection:
                connection.execute("VACUUM (ANALYZE)")
        return urls[0], urls[1]

    def _saying(self, shape: Shape) -> Progress:
        return lambda message: self.progress(f"{shape}: {message}")


@dataclass(frozen=True)
class _Connections:
    """Opens connections that are closed with the stack."""

    stack: ExitStack

    def to(self, url: URL) -> psycopg.Connection[Any]:
        return self.stack.enter_context(closing(connect(url)))
