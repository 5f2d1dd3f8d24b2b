"""`make bench`: what is about versions in a scheduler's loop, dagbump beside stock Airflow and two baselines."""

from __future__ import annotations

import time
from collections.abc import Mapping

from sqlalchemy.engine import URL
from support.releases.worker import Worker

from benchmarks import machine
from benchmarks.bench import QUIET, Bench, Stage
from benchmarks.contenders import Airflow, BareUpdate, Bump, Contender
from benchmarks.lifecycle import measure_life_cycles
from benchmarks.measure import measure_steady, measure_version_change
from benchmarks.plan import LARGEST_RUN, STOCK
from benchmarks.results import Cost, FleetCosts, Loops

RELEASES, SETTINGS = STOCK, QUIET
_VARIANTS = {"plain": False, "indexed": True}  # with the index?


def measure(bench: Bench) -> Loops:
    """Measure one fleet after the other, all contenders beside each other."""
    start = time.perf_counter()
    steady, version_change = [], []
    greetings: dict[str, dict[str, str]] = {}
    for shape in bench.plan.loops:
        with bench.stage(shape) as at:
            workers = {name: at.stock(name) for name in STOCK if shape.tis <= LARGEST_RUN.get(name, shape.tis)}
            greetings |= {release: worker.greeting for release, worker in workers.items()}
            if shape == bench.plan.life_cycles:
                life_cycles = measure_life_cycles(bench, *_copy(at))
            unchanged, changed = _measure(at, workers, bench)
        steady.append(FleetCosts(shape.runs, shape.tis, unchanged))
        version_change.append(FleetCosts(shape.runs, shape.tis, changed))
    about, seconds = machine.describe(bench.server, greetings), round(time.perf_counter() - start)
    return Loops(about, seconds, sorted(steady), sorted(version_change), life_cycles)


def _copy(at: Stage) -> list[URL]:
    return [at.copy(name, STOCK[-1], with_index=with_index) for name, with_index in _VARIANTS.items()]


def _measure(at: Stage, workers: Mapping[str, Worker], bench: Bench) -> tuple[dict[str, Cost], dict[str, Cost]]:
    _copy(at)
    plain, indexed = ([at.connect(name, STOCK[-1]) for _ in range(2)] for name in _VARIANTS)
    loops: list[Contender] = [
        *(Airflow(f"stock-{name}", at.connect("stock", name), worker) for name, worker in workers.items()),
        Bump("dagbump", plain[0]),
        Bump("dagbump-index", indexed[0]),
    ]
    updates = [BareUpdate("update", plain[1]), BareUpdate("update-index", indexed[1])]
    return (
        measure_steady([*loops, Contender("select-1", plain[1])], bench),
        measure_version_change([*loops, *updates], bench),
    )
