"""`make bench-scheduler`: stock Airflow, and Airflow with the plugin and the optional index.

It measures whole loops, most of which is update_state, and the version work alone: all that a loop does about a new
version, including verify_integrity and the commit.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import astuple
from typing import Any

from support.releases.worker import Worker

from benchmarks import fleet
from benchmarks.bench import QUIET, Bench, Stage
from benchmarks.contenders import Airflow, BareUpdate, Contender, WithATaskMore, look
from benchmarks.figures import LOOK, Cost, Results, figure
from benchmarks.fleet import Connection
from benchmarks.measure import Samples, measure_steady, measure_version_change, turns
from benchmarks.plan import A_TASK, LOOKS, MAPPED, NOTHING, VERSION_WORK, WHOLE_LOOPS

RELEASES, SETTINGS = WHOLE_LOOPS, QUIET
# Additional tasks in the DAG, by what a new version brings.
_MORE_TASKS = {NOTHING: "", A_TASK: "", MAPPED: fleet.MAPPED_TASK}
_AIRFLOW = {"AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0"}  # Airflow writes a new version at once


def measure(bench: Bench) -> Results:
    """Measure whole loops for each fleet, then the version work for each kind of change."""
    found = Results(bench.describe(), [], {})
    for size in bench.plan.whole_loops:
        with bench.stage(size, **_AIRFLOW) as at:
            found.rows.extend(_whole_loops(at, bench))
    size = bench.plan.version_work
    for kind, more_tasks in _MORE_TASKS.items():
        with bench.stage(size, **_AIRFLOW) as at:
            found.costs[kind] = {str(size): measure_version_change(_contenders(at, kind, more_tasks), bench)}
            if kind == NOTHING:
                found.costs[LOOK] = {str(size): _look(at, bench)}
    return found


def _sides(at: Stage, release: str, more_tasks: str = "") -> Iterator[tuple[str, Connection, Worker]]:
    stock = at.stock(release, more_tasks)
    plugin = at.plugin(release)
    at.copy("update", release)  # for the bare UPDATE and the look
    for kind, worker in (("plugin", plugin), ("stock", stock)):
        own = at.connect(kind, release)
        own.execute("VACUUM (ANALYZE)")
        yield f"{kind}-{release}", own, worker


def _contenders(at: Stage, kind: str, more_tasks: str) -> list[Contender]:
    contender = WithATaskMore if kind == A_TASK else Airflow
    contenders: list[Contender] = []
    for release in VERSION_WORK:
        contenders += [contender(*side, reading=False) for side in _sides(at, release, more_tasks)]
        contenders.append(BareUpdate(f"update-{release}", at.connect("update", release)))
    return contenders


def _look(at: Stage, bench: Bench) -> dict[str, Cost]:
    costs: dict[str, Cost] = {}
    for dags in LOOKS:
        looks = [Contender(f"{dags}, {release}", at.connect("update", release), look) for release in VERSION_WORK]
        for each in looks if dags == LOOKS[1] else ():
            fleet.split_dag(each.connection)
        costs |= measure_steady(looks, bench)
    return costs


def _whole_loops(at: Stage, bench: Bench) -> Iterator[dict[str, Any]]:
    sides = [Airflow(*side, whole=True) for release in WHOLE_LOOPS for side in _sides(at, release)]
    for side in sides:
        side.warm_up()  # schedules what can be scheduled, once
    for loop, changed in {"steady": False, "version change": True}.items():
        samples = [Samples(side) for side in sides]
        for mine in turns(samples, bench.plan.whole, bench.say, f"{at.size}, {loop}"):
            if changed:
                mine.contender.change_version()
            mine.rounds.append([mine.contender.loop()])
        for side, mine in zip(sides, samples, strict=True):
            if changed:
                side.change_version()
            counted = side.ask(counted=True)
            if counted["runs"] != at.size.runs:
                raise RuntimeError(f"benchmark: {side.name} examined {counted['runs']} runs")
            peak = None if changed else side.ask(traced=True)["peak"]
            times = zip(*(astuple(timing) for (timing,) in mine.rounds), strict=True)
            ms, version_ms = (figure(statistics.median(column)) for column in times)
            yield {
                "fleet": str(at.size),
                "loop": loop,
                "who": side.name,
                "ms": ms,
                "version_ms": version_ms,  # of these, to bump, to verify, and to look up DAGs and their versions
                "statements": int(counted["statements"]),  # with those that examine the runs
                "peak": peak,  # of Python's memory, in bytes; None: not traced
                "count": len(mine.rounds),
            }
