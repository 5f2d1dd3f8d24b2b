"""What a scheduler's loop does and costs: time, statements, memory."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import sqlalchemy as sa

from dagbump.demo import fleet
from dagbump.demo.loops import Pass, SchedulerLoop, run_once
from dagbump.errors import DagbumpError

PASSES = 5
LOOPS = 2 * PASSES + 4  # of one measurement


@dataclass(frozen=True)
class Cost:
    """What loops of one kind cost.

    Attributes:
        milliseconds: from BEGIN to COMMIT, the median of `PASSES` loops.
        statements: calls of a cursor's execute or executemany, without BEGIN and COMMIT. An executemany counts as
            one, although the server runs a statement for each row.
        kept: bytes that Python holds at the end of a loop. What the driver's C library holds is not in it.
    """

    milliseconds: float
    statements: int
    kept: int


@dataclass(frozen=True)
class Figures:
    """What a loop does and costs.

    Attributes:
        steady: the loop in which nothing has changed.
        landed: the loop after a version has landed. The other attributes are about this loop.
        loaded: TIs that it loaded.
        moved: TIs that it moved.
        left_behind: unfinished TIs that are still on an older version, after that loop and after the next one.
    """

    steady: Cost
    landed: Cost
    loaded: int
    moved: int
    left_behind: int


def measure(
    engine: sa.engine.Engine, loop: SchedulerLoop, tis: int, left_behind: int, before_each: Callable[[], None]
) -> Figures:
    """Measure one way to do the loop, in a database that holds a fleet on version 1, of runs with so many TIs.

    Args:
        engine: of a database that this measurement has to itself.
        loop: the way.
        tis: task instances of each run.
        left_behind: how many TIs it should leave on an older version.
        before_each: called before each of `LOOPS` loops.

    Raises:
        DagbumpError: it moved more or fewer TIs than it should.
    """
    with engine.connect() as connection, engine.connect() as others:

        def run() -> Pass:
            return run_once(connection, loop)

        def land_version() -> None:
            before_each()
            with others.begin():
                fleet.land_version(others, tis)

        before_each()
        run()  # fills caches, makes plans
        steady, _ = _cost(engine, before_each, run)
        landed, done = _cost(engine, land_version, run)
        before_each()
        moved_later = run().moved
        census = fleet.take_census(others)
    to_move = census.unfinished - left_behind
    if (done.moved, moved_later, census.stale, census.moved_wrongly) != (to_move, 0, left_behind, 0):
        raise DagbumpError(f"the demo failed. A loop moved {done.moved} TIs, the next one {moved_later}: {census}.")
    return Figures(steady, landed, done.loaded, done.moved, left_behind)


def _cost(engine: sa.engine.Engine, before_each: Callable[[], None], run: Callable[[], Pass]) -> tuple[Cost, Pass]:
    """Measure loops of one kind; their memory in a loop of its own, because tracing slows Python down."""
    milliseconds = []
    for _ in range(PASSES):
        before_each()
        gc.collect()
        start = time.perf_counter()
        run()
        milliseconds.append((time.perf_counter() - start) * 1000)
    before_each()
    gc.collect()
    tracemalloc.start()
    with _counted(engine) as statements:
        done = run()
    gc.collect()  # what only waits for the collector is not kept
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return Cost(median(milliseconds), len(statements), kept), done


@contextmanager
def _counted(engine: sa.engine.Engine) -> Iterator[list[str]]:
    """Lend the list to which the statements of the body are added."""
    statements: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    sa.event.listen(engine, "before_cursor_execute", count)
    yield statements
    sa.event.remove(engine, "before_cursor_execute", count)
