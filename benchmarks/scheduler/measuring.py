"""What is left of a scheduler's work with the plugin: ``make bench-scheduler``. Takes 15 minutes on an idle machine.

Two questions, asked of real Airflow, its own methods called, stock and with the plugin on, with the optional index,
side by side. What does all work about a new version cost, verify_integrity included, to its commit (without the reading
of the new DAG, which a scheduler does in any case)? And what part of a whole loop is that? Most of a loop is
update_state, which dagbump does not touch.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from dagbump import client
from support.releases import environments
from support.releases.worker import Worker, start_worker
from support.server import Server

from benchmarks import fleet, machine
from benchmarks import plan as loop_plan
from benchmarks.contenders import BareUpdate, Contender, Memory, Timing
from benchmarks.database import connect, install, recreate, scalar, start_server
from benchmarks.measure import Cost, figure, measure_steady, measure_version_change
from benchmarks.plan import LOOP_RUNS, Plan, Rounds, Shape
from benchmarks.scheduler.results import A_TASK, EVERY_RELEASE, LOOKS, MAPPED, NOTHING, RELEASES, Loops, Results

# What the new version brings, and what is added to the DAG file of the fleet from the start.
KINDS = {NOTHING: "", A_TASK: "", MAPPED: fleet.MAPPED}
# Whether there is a new version.
LOOPS = {"steady": False, "version change": True}


class Scheduler(Contender):
    """What a scheduler of a release does about versions, in one loop; without the reading of the new DAG."""

    in_python = True

    def __init__(self, name: str, worker: Worker, connection: psycopg.Connection[Any], shape: Shape, kind: str) -> None:
        """Take a worker, which holds the clock."""
        super().__init__(name, connection, connection)
        self._worker = worker
        self._tasks = shape.tis
        self._adds_tasks = kind == A_TASK

    def change_version(self) -> UUID:
        """Let there be a new version, with one task more where that is what is measured."""
        if not self._adds_tasks:
            return super().change_version()
        self._tasks += 1
        fleet.write_dag(self._tasks, self._worker)
        version: UUID = scalar(self.connection, "SELECT id FROM dag_version ORDER BY version_number DESC LIMIT 1")
        return version

    def warm_up(self) -> None:
        """Let Airflow do a loop in which nothing changed."""
        self._worker("loop")

    def loop(self) -> Timing:
        """Let Airflow do the loop after a change."""
        timing = Timing(**self._worker("loop"))
        lacking = self._runs_that_lack_a_task()
        if lacking:
            raise RuntimeError(f"benchmark: after a loop of {self.name}, {lacking} runs lack a task")
        return Timing(timing.ms - timing.dag_ms, timing.verify_ms - timing.dag_ms)

    def inspect(self) -> Memory:
        """Let Airflow do a loop under tracemalloc."""
        return Memory(**self._worker("inspect"))

    def _runs_that_lack_a_task(self) -> int:
        runs = "SELECT FROM task_instance GROUP BY run_id HAVING count(DISTINCT task_id) < %s"
        row = self.connection.execute(f"SELECT count(*) FROM ({runs}) AS run", (self._tasks,)).fetchone()
        assert row is not None
        return int(row[0])


class Look(Contender):
    """The look for missing tasks, as the plugin takes it once a minute."""

    def _work(self) -> None:
        client.verify_scope(self._own, range(1, LOOP_RUNS + 1))


@dataclass(frozen=True)
class _Stage:
    """One fleet, in a database for each contender: by its name, the worker and a connection; and the bare UPDATE's."""

    shape: Shape
    workers: dict[str, tuple[Worker, psycopg.Connection[Any]]]
    updates: dict[str, psycopg.Connection[Any]]


@contextmanager
def _stage(server: Server, shape: Shape, kind: str, releases: Sequence[str]) -> Iterator[_Stage]:
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dagbump-bench-")))
        stage = _Stage(shape, {}, {})

        def start(name: str, release: str, template: str) -> tuple[Worker, psycopg.Connection[Any]]:
            database = f"bench_{name.replace('.', '_').replace('-', '_')}"
            stack.callback(server.drop_database, database)
            url = recreate(server, database, template)
            if template.startswith("bench_stock"):
                install(url, with_index=True)
            environment = {
                "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",  # a new version at once
                "AIRFLOW__DAGBUMP__ENABLED": "True",
                "AIRFLOW__DAGBUMP__MISSING_TASKS_INTERVAL": "0",
            }
            script = Path(__file__).with_name("worker.py")
            worker = stack.enter_context(start_worker(release, url, home / name, environment, script))
            return worker, stack.enter_context(closing(connect(url)))

        for release in releases:
            stock = f"stock-{release}"
            worker, connection = start(stock, release, _template(release))
            fleet.make(shape, worker, connection, KINDS[kind])
            worker("disconnect")
            connection.close()
            database = f"bench_stock_{release.replace('.', '_')}"
            plugin = f"plugin-{release}"
            stage.workers[plugin] = start(plugin, release, database)
            stage.workers[plugin][0]("turn_on")
            update = f"bench_update_{release.replace('.', '_')}"
            stack.callback(server.drop_database, update)
            url = recreate(server, update, database)
            install(url, with_index=True)
            stage.updates[release] = stack.enter_context(closing(connect(url)))
            stage.workers[stock] = worker, stack.enter_context(closing(connect(server.database(database))))
            stage.updates[release].execute("VACUUM (ANALYZE)")
        for each, own in stage.workers.values():
            own.execute("VACUUM (ANALYZE)")
            each("take_times")
        yield stage


def _template(release: str) -> str:
    return f"bench_template_{release}"


def measure(plan: _Plan, progress: Callable[[str], None]) -> Iterator[Results]:
    """Do it all; answer, after each fleet, what has been found out so far."""
    work: dict[str, dict[str, dict[str, Cost]]] = {kind: {} for kind in KINDS}
    look: dict[str, dict[str, Cost]] = {}
    loops: list[Loops] = []
    with ExitStack() as stack:
        server = stack.enter_context(start_server())
        observer = stack.enter_context(server.maintenance())
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dagbump-bench-")))
        for release in EVERY_RELEASE:
            stack.callback(server.drop_database, _template(release))
            environments.migrate(release, recreate(server, _template(release), "template0"), home)
        about = machine.describe(server, {})
        for shape, kind in plan.steps:
            progress(f"{shape}, {kind or 'whole loops'}: Airflow makes the fleet")
            with _stage(server, shape, kind or NOTHING, RELEASES if kind else EVERY_RELEASE) as stage:
                if kind is None:
                    loops += _measure_loops(stage, plan, progress)
                    yield Results(about, work, look, loops)
                    continue
                contenders = _contenders(stage, kind)
                work[kind][str(shape)] = measure_version_change(contenders, plan.rounds, observer, progress)
                if kind == NOTHING:
                    look[str(shape)] = _measure_look(stage, plan.rounds, observer, progress)
            yield Results(about, work, look, loops)


def _contenders(stage: _Stage, kind: str) -> list[Contender]:
    schedulers = [
        Scheduler(name, worker, connection, stage.shape, kind) for name, (worker, connection) in stage.workers.items()
    ]
    updates = [BareUpdate(f"update-{release}", own, own) for release, own in stage.updates.items()]
    return [*schedulers, *updates]


def _measure_look(
    stage: _Stage, rounds: Plan, observer: psycopg.Connection[Any], progress: Callable[[str], None]
) -> dict[str, Cost]:
    def measure_with(dags: str) -> dict[str, Cost]:
        sides = [Look(f"{dags}, {release}", own, own) for release, own in stage.updates.items()]
        return measure_steady(sides, rounds, observer, progress)

    one, many = LOOKS
    costs = measure_with(one)
    for own in stage.updates.values():
        fleet.split_dag(own)
    return costs | measure_with(many)


def _measure_loops(stage: _Stage, plan: _Plan, progress: Callable[[str], None]) -> Iterator[Loops]:
    for worker, _ in stage.workers.values():
        worker("whole_loop")  # what there is to schedule is scheduled, once
    for loop in LOOPS:
        progress(f"{stage.shape}: {loop}")
        yield from _measure_loop(stage, plan, loop)


def _measure_loop(stage: _Stage, plan: _Plan, loop: str) -> Iterator[Loops]:
    def once(name: str, **how: bool) -> dict[str, float]:
        worker, own = stage.workers[name]
        if LOOPS[loop]:
            fleet.change_version(own)
        answer: dict[str, float] = worker("whole_loop", **how)
        if answer["runs"] != stage.shape.runs:
            raise RuntimeError(f"benchmark: {name} examined {answer['runs']} runs")
        return answer

    # In turns, so that what else the machine does is in the way of all alike.
    taken: list[dict[str, dict[str, float]]] = []
    began = time.monotonic()
    while len(taken) < plan.least_loops or (len(taken) < plan.loops and time.monotonic() - began < plan.loop_seconds):
        taken.append({name: once(name) for name in stage.workers})
    for name in stage.workers:
        ms, version_ms = (
            figure(statistics.median(each[name][part] for each in taken)) for part in ("ms", "version_ms")
        )
        statements = int(once(name, counted=True)["statements"])
        peak = once(name, traced=True)["peak"] if loop == "steady" else None
        yield Loops(str(stage.shape), loop, name, ms, version_ms, statements, peak, len(taken))


@dataclass(frozen=True)
class _Plan:
    """What is measured.

    Attributes:
        steps: fleets, and what the new version brings; None: whole loops.
        rounds: how often.
        loops: how often a whole loop, if that takes no longer than `loop_seconds`;
        least_loops: and so often in any case.
    """

    steps: tuple[tuple[Shape, str | None], ...]
    rounds: Plan
    loops: int
    least_loops: int
    loop_seconds: float


def _rounds(seconds: float, least: int, most: int) -> Plan:
    steady = Rounds(seconds=1, least=3, most=20)
    return Plan(
        (Shape(1, 1),),
        steady,
        0.04,
        loop_plan.QUICK.observed,
        Rounds(seconds=seconds, least=least, most=most, limit_seconds=60),
        5,
        Shape(1, 1),
        0,
    )


_QUICK, _MIDDLE = Shape(LOOP_RUNS, 50), Shape(LOOP_RUNS, 500)
_WHOLE_LOOPS = (Shape(1, 20), *(Shape(LOOP_RUNS, tis) for tis in (20, 100, 500)))
FULL = _Plan(
    (*((shape, None) for shape in _WHOLE_LOOPS), *((_MIDDLE, kind) for kind in KINDS)), _rounds(5, 2, 8), 25, 3, 30
)
QUICK = _Plan((*((_QUICK, kind) for kind in KINDS), (_QUICK, None)), _rounds(0.1, 2, 2), 1, 1, 0)
