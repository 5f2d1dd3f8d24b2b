"""Measures the contenders in interleaved rounds, never all rounds of one contender first."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from benchmarks.bench import Bench
from benchmarks.contenders import Contender, Timing
from benchmarks.figures import Cost, Memory, Spread, Touched, figure
from benchmarks.fleet import count_stale, move, stale_ids, vacuum
from benchmarks.plan import Rounds


@dataclass
class Samples:
    """The measurements of one contender so far."""

    contender: Contender
    rounds: list[list[Timing]] = field(default_factory=list)
    touched: list[Touched] = field(default_factory=list)
    stale: int = 0
    memory: Memory | None = None

    def observe_loop(self, bench: Bench) -> Timing:
        connection = self.contender.connection
        timing, touched = bench.observe(connection.info.dbname, self.contender.loop)
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


def measure_steady(contenders: Sequence[Contender], bench: Bench) -> dict[str, Cost]:
    """Measure loops in which nothing changed."""
    samples = [Samples(contender) for contender in contenders]
    for contender in contenders:
        vacuum(contender.connection)
        contender.warm_up()
    steady_turns(samples, bench)
    for mine in turns(samples, bench.plan.observed, bench.say, "steady, observed"):
        mine.observe_loop(bench)
    for mine in samples:
        mine.memory = mine.contender.inspect()
    return {mine.contender.name: mine.cost() for mine in samples}


def steady_turns(samples: Sequence[Samples], bench: Bench) -> None:
    """Measure steady loops, several in each turn."""
    for mine in turns(samples, bench.plan.steady, bench.say, "steady"):
        end = perf_counter() + bench.plan.turn_seconds
        timings = [mine.contender.loop()]
        while perf_counter() < end:
            timings.append(mine.contender.loop())
        mine.rounds.append(timings)


def measure_version_change(contenders: Sequence[Contender], bench: Bench) -> dict[str, Cost]:
    """Measure loops after a version change, in which the unfinished TIs of all runs are to be moved."""
    samples = [Samples(contender) for contender in contenders]
    for contender in contenders:  # makes room in the table, which later changes use again
        version = contender.change_version()
        move(contender.connection, stale_ids(contender.connection), version)
    for mine in turns(samples, bench.plan.version_change, bench.say, "version change"):
        _set_the_stage(mine.contender)
        mine.rounds.append([mine.observe_loop(bench)])
    for mine in samples:
        slowest = max(timing.ms for (timing,) in mine.rounds) / 1000
        if slowest <= bench.plan.inspected_seconds or not mine.contender.in_python:
            _set_the_stage(mine.contender)
            mine.memory = mine.contender.inspect()
    return {mine.contender.name: mine.cost() for mine in samples}


def _set_the_stage(contender: Contender) -> None:
    """Remove dead rows, do the steady loop that a scheduler has done a second ago, and make a new version."""
    vacuum(contender.connection)
    contender.warm_up()
    contender.prepare(contender.change_version())
    if not count_stale(contender.connection):
        raise RuntimeError(f"benchmark: there is nothing to do for {contender.name} after a version change")


def turns(samples: Sequence[Samples], rounds: Rounds, say: Callable[[str], None], what: str) -> Iterator[Samples]:
    """Give turns, round by round. Contenders that have been measured enough drop out.

    The order alternates, because a contender leaves its rows where the next one in the same database has to find them.
    """
    seconds = [0.0] * len(samples)
    for number in range(rounds.most):
        active = [which for which in range(len(samples)) if not rounds.are_enough(number, seconds[which])]
        for which in active if number % 2 == 0 else reversed(active):
            say(f"{samples[which].contender.name}, {what}, round {number + 1}")
            start = perf_counter()
            yield samples[which]
            seconds[which] += perf_counter() - start
