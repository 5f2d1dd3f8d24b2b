"""Measures the sides against each other: interleaved rounds, never all of one side first."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from benchmarks.database import Observer, Touched, move_tis, stale_tis, vacuum
from benchmarks.fleet import land_version
from benchmarks.plan import Plan, Rounds
from benchmarks.sides import Loop, Memory, Side

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Spread:
    """Several measurements of the same thing."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Take the median and the quartiles."""
        several = values if len(values) > 1 else [*values, *values]
        low, middle, high = statistics.quantiles(several, n=4, method="inclusive")
        return cls(middle, low, high, len(values))


@dataclass(frozen=True)
class Cost:
    """What a side's loop costs, in one fleet.

    Attributes:
        ms: milliseconds from its first statement to the end of its commit.
        rounds: the median of these, round by round.
        verify_ms: the median of what Airflow's verify_integrity, and reading the DAG for it, took of them.
        touched: what it did to the server.
        memory: what it made of Python's memory; None where it was not traced.
        stale: TIs that it left stale.
    """

    ms: Spread
    rounds: tuple[float, ...]
    verify_ms: float
    touched: Touched
    memory: Memory | None
    stale: int

    def times(self, other: Cost) -> float:
        """Return how many times what another side takes, as the median of the ratios of each round.

        The speed of a machine drifts; within a round it is the same for all sides. A slow side has fewer rounds.
        """
        return statistics.median(mine / theirs for mine, theirs in zip(self.rounds, other.rounds, strict=False))


@dataclass
class _Samples:
    """What a side has measured so far."""

    rounds: list[list[Loop]] = field(default_factory=list)
    touched: list[Touched] = field(default_factory=list)
    stale: list[int] = field(default_factory=list)
    turns: int = 0
    seconds: float = 0.0

    @property
    def loops(self) -> list[Loop]:
        return [loop for loops in self.rounds for loop in loops]

    def cost(self, memory: Memory | None) -> Cost:
        return Cost(
            Spread.of([loop.ms for loop in self.loops]),
            tuple(statistics.median(loop.ms for loop in loops) for loops in self.rounds),
            statistics.median(loop.verify_ms for loop in self.loops),
            Touched(
                *(
                    statistics.median_low([getattr(touched, name) for touched in self.touched])
                    for name in ("statements", "rows", "buffers", "wal_bytes")
                )
            ),
            memory,
            max(self.stale),
        )


def measure_steady(sides: Sequence[Side], plan: Plan, observer: Observer, progress: Progress) -> dict[str, Cost]:
    """Measure loops in which nothing changed."""
    samples = {side.name: _Samples() for side in sides}
    for side in sides:
        vacuum(side.connection)
        side.warm_up()
    for side in _turns(sides, samples, plan.steady):
        mine = samples[side.name]
        progress(f"{side.name}, steady, round {mine.turns + 1}")
        end = perf_counter() + plan.steady_turn_seconds
        loops = [side.loop()]
        while perf_counter() < end:
            loops.append(side.loop())
        mine.rounds.append(loops)
    observations = {side.name: _Samples() for side in sides}
    for side in _turns(sides, observations, plan.observed):
        progress(f"{side.name}, steady, observed")
        _observe(side, samples[side.name], observer)
    memories = {}
    for side in sides:
        progress(f"{side.name}, steady, inspected")
        memories[side.name] = side.inspect()
        samples[side.name].stale.append(stale_tis(side.connection))
    return {side.name: samples[side.name].cost(memories[side.name]) for side in sides}


def measure_landing(sides: Sequence[Side], plan: Plan, observer: Observer, progress: Progress) -> dict[str, Cost]:
    """Measure loops in which a new version has landed, and the unfinished TIs of all runs are to be moved to it."""
    samples = {side.name: _Samples() for side in sides}
    for side in sides:  # Makes the room that the rows of each later landing go to.
        progress(f"{side.name}, landing, warm-up")
        move_tis(side.connection, land_version(side.connection))
    for side in _turns(sides, samples, plan.landing):
        mine = samples[side.name]
        progress(f"{side.name}, landing, round {mine.turns + 1}")
        _land(side)
        mine.rounds.append([_observe(side, mine, observer)])
        mine.stale.append(stale_tis(side.connection))
    memories: dict[str, Memory | None] = {}
    for side in sides:
        progress(f"{side.name}, landing, inspected")
        slowest = max(loop.ms for loop in samples[side.name].loops) / 1000
        memories[side.name] = None
        if slowest <= plan.inspected_landing_seconds or not side.in_python:
            _land(side)
            memories[side.name] = side.inspect()
    return {side.name: samples[side.name].cost(memories[side.name]) for side in sides}


def _land(side: Side) -> None:
    """Set the stage: tables without dead rows, a loop as there was one a second ago, and then a new version."""
    vacuum(side.connection)
    side.warm_up()
    side.prepare(land_version(side.connection))


def _observe(side: Side, samples: _Samples, observer: Observer) -> Loop:
    observer.begin()
    loop = side.loop()
    samples.touched.append(observer.end(side.connection.info.dbname))
    return loop


def _turns(sides: Sequence[Side], samples: dict[str, _Samples], rounds: Rounds) -> Iterator[Side]:
    """Yield sides, round by round, each round in another order; those that have been measured enough drop out.

    The order alternates because sides that share a database leave their rows where the next one has to pick them up.
    """
    for number in range(rounds.most):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        active = [side for side in order if not _enough(samples[side.name], rounds)]
        if not active:
            return
        for side in active:
            start = perf_counter()
            yield side
            samples[side.name].turns += 1
            samples[side.name].seconds += perf_counter() - start


def _enough(samples: _Samples, rounds: Rounds) -> bool:
    if samples.turns and samples.seconds >= rounds.limit_seconds:
        return True
    return samples.turns >= rounds.least and samples.seconds >= rounds.seconds
