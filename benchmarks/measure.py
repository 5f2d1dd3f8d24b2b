"""Measures the contenders against each other: interleaved rounds, never all of one contender first."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import psycopg

from benchmarks.contenders import Contender, Memory, Timing
from benchmarks.database import Touched, count_stale, move, observe, stale_ids, vacuum
from benchmarks.plan import Plan, Rounds

Progress = Callable[[str], None]


def figure(value: float) -> float:
    """Cut a figure to what was measured."""
    return float(f"{value:.6g}")


@dataclass(frozen=True)
class Spread:
    """Several measurements of the same thing: the median and the quartiles."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Take the median and the quartiles."""
        several = values if len(values) > 1 else [*values, *values]
        low, middle, high = map(figure, statistics.quantiles(several, n=4, method="inclusive"))
        return cls(middle, low, high, len(values))


@dataclass(frozen=True)
class Cost:
    """What a contender's loop costs, in one fleet."""

    ms: Spread  # milliseconds from its first statement to the end of its commit
    rounds: tuple[float, ...]  # the median of these, round by round
    verify_ms: float  # the median of what Airflow's verify_integrity, and reading the DAG for it, took of them
    touched: Touched
    memory: Memory | None  # None where it was not traced
    stale: int  # TIs that it left stale

    def times(self, other: Cost) -> float:
        """Return how many times what another contender takes, as the median of the ratios of each round.

        The speed of a machine drifts; within a round it is the same for all. A slow contender has fewer rounds.
        """
        return statistics.median(mine / theirs for mine, theirs in zip(self.rounds, other.rounds, strict=False))


@dataclass
class _Samples:
    """What a contender has measured so far."""

    contender: Contender
    rounds: list[list[Timing]] = field(default_factory=list)
    touched: list[Touched] = field(default_factory=list)
    stale: int = 0
    memory: Memory | None = None

    def observe_loop(self, observer: psycopg.Connection[Any]) -> Timing:
        connection = self.contender.connection
        timing, touched = observe(observer, connection.info.dbname, self.contender.loop)
        self.touched.append(touched)
        self.stale = max(self.stale, count_stale(connection))
        return timing

    def cost(self) -> Cost:
        timings = [timing for round_ in self.rounds for timing in round_]
        counted = zip(*(vars(touched).values() for touched in self.touched), strict=True)
        return Cost(
            Spread.of([timing.ms for timing in timings]),
            tuple(figure(statistics.median(timing.ms for timing in round_)) for round_ in self.rounds),
            figure(statistics.median(timing.verify_ms for timing in timings)),
            Touched(*map(statistics.median_low, counted)),
            self.memory,
            self.stale,
        )


def measure_steady(
    contenders: Sequence[Contender], plan: Plan, observer: psycopg.Connection[Any], progress: Progress
) -> dict[str, Cost]:
    """Measure loops in which nothing changed."""
    samples = [_Samples(contender) for contender in contenders]
    for contender in contenders:
        vacuum(contender.connection)
        contender.warm_up()
    for mine in _turns(samples, plan.steady, progress, "steady"):
        end = perf_counter() + plan.steady_turn_seconds
        timings = [mine.contender.loop()]
        while perf_counter() < end:
            timings.append(mine.contender.loop())
        mine.rounds.append(timings)
    for mine in _turns(samples, plan.observed, progress, "steady, observed"):
        mine.observe_loop(observer)
    for mine in samples:
        mine.memory = mine.contender.inspect()
    return {mine.contender.name: mine.cost() for mine in samples}


def measure_version_change(
    contenders: Sequence[Contender], plan: Plan, observer: psycopg.Connection[Any], progress: Progress
) -> dict[str, Cost]:
    """Measure loops after a version change, in which the unfinished TIs of all runs are to be moved."""
    samples = [_Samples(contender) for contender in contenders]
    for contender in contenders:  # Makes the room that the rows of each later change go to.
        version = contender.change_version()
        move(contender.connection, stale_ids(contender.connection), version)
    for mine in _turns(samples, plan.version_change, progress, "version change"):
        _set_the_stage(mine.contender)
        mine.rounds.append([mine.observe_loop(observer)])
    for mine in samples:
        slowest = max(timing.ms for (timing,) in mine.rounds) / 1000
        if slowest <= plan.inspected_seconds or not mine.contender.in_python:
            _set_the_stage(mine.contender)
            mine.memory = mine.contender.inspect()
    return {mine.contender.name: mine.cost() for mine in samples}


def _set_the_stage(contender: Contender) -> None:
    """Make tables without dead rows, a loop as there was one a second ago, and then a new version."""
    vacuum(contender.connection)
    contender.warm_up()
    contender.prepare(contender.change_version())
    if not count_stale(contender.connection):
        raise RuntimeError(f"benchmark: there is nothing to do for {contender.name} after a version change")


def _turns(samples: Sequence[_Samples], rounds: Rounds, progress: Progress, what: str) -> Iterator[_Samples]:
    """Give turns, round by round, each round in another order; those that have been measured enough drop out.

    The order alternates because those that share a database leave their rows where the next one has to pick them up.
    """
    seconds = [0.0] * len(samples)
    for number in range(rounds.most):
        active = [which for which in range(len(samples)) if not rounds.are_enough(number, seconds[which])]
        for which in active if number % 2 == 0 else reversed(active):
            progress(f"{samples[which].contender.name}, {what}, round {number + 1}")
            start = perf_counter()
            yield samples[which]
            seconds[which] += perf_counter() - start
