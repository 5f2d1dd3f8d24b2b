"""All that the programs find out, and the JSON files that keep it."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.plan import Shape

# A value in JSON with at most one level inside: what a contender's loop costs, say.
_SHALLOW = re.compile(r"[\[{](?:[^][{}]|[\[{][^][{}]*[\]}])*[\]}]")


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
        several = values if len(values) > 1 else [*values, *values]
        low, middle, high = map(figure, statistics.quantiles(several, n=4, method="inclusive"))
        return cls(middle, low, high, len(values))


@dataclass(frozen=True)
class Touched:
    """What a loop did to the server."""

    statements: int  # what the client sent, without BEGIN and COMMIT; the server's own count
    buffers: int  # pages of 8 kB that they looked at, in shared buffers or not
    wal_bytes: int  # what was written to the write-ahead log, the commit included


@dataclass(frozen=True)
class Memory:
    """What a loop makes of Python's memory."""

    kept: int  # bytes that are held when its work is done, before the result of it is let go
    peak: int  # bytes that were held at most
    tis_loaded: int  # task instances that have become Python objects, or rows


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


@dataclass(frozen=True, order=True)
class FleetCosts(Shape):
    """What a loop of each contender costs in this fleet."""

    contenders: dict[str, Cost]


_NAMES = {
    "dagbump-index": "dagbump + index",
    "select-1": "`SELECT 1`",
    "update": "bare UPDATE",
    "update-index": "bare UPDATE + index",
}


def names(fleets: Iterable[FleetCosts]) -> list[str]:
    """Return the contenders of these fleets, in the order in which they are measured."""
    return list(dict.fromkeys(name for fleet in fleets for name in fleet.contenders))


def name_of(contender: str) -> str:
    """Return how documents and plots call a contender."""
    return _NAMES.get(contender, contender.replace("stock-", "Airflow "))


@dataclass(frozen=True)
class LifeCycles:
    """Life cycles of TIs per second."""

    fleet: Shape  # beside which they were measured
    without_index: Spread
    with_index: Spread
    lost: Spread  # the share that the index costs, by pairs of neighbouring runs: 0.03 is 3 %
    lost_error: float  # how far the median of the pairs may be off (its standard error)


@dataclass(frozen=True)
class Loops:
    """The part of a scheduler's loop that is about versions."""

    machine: dict[str, Any]
    seconds: int  # how long the benchmark took
    steady: list[FleetCosts]  # the loop in which nothing changed
    version_change: list[FleetCosts]  # the loop after a version change
    life_cycles: LifeCycles  # what the index costs the rest


@dataclass(frozen=True)
class WholeLoop:
    """What a whole loop took, in one fleet; milliseconds are medians."""

    fleet: str  # runs x TIs
    loop: str  # "steady" or "version change"
    who: str  # "stock-RELEASE" or "plugin-RELEASE"
    ms: float
    version_ms: float  # of which bumping, verifying, and looking DAGs and their versions up
    statements: int  # what such a loop sends, examining included
    peak: float | None  # bytes that Python held at most; None where it was not traced
    count: int  # of how many loops


@dataclass(frozen=True)
class Scheduler:
    """Stock Airflow beside Airflow with the plugin."""

    machine: dict[str, Any]
    version_work: dict[str, dict[str, dict[str, Cost]]]  # by what the version brings, by fleet, by contender
    look: dict[str, dict[str, Cost]]  # for missing tasks: by fleet, by one of `LOOKS` and release
    loops: list[WholeLoop]

    def each_version_work(self) -> Iterator[tuple[str, str, dict[str, Cost]]]:
        for kind, fleets in self.version_work.items():
            yield from ((kind, fleet, costs) for fleet, costs in fleets.items())

    def pairs(self) -> Iterator[tuple[str, WholeLoop, WholeLoop]]:
        """Pair what stock and plugin took, with their release."""
        by = {(each.loop, each.fleet, each.who): each for each in self.loops}
        for (loop, fleet, who), stock in by.items():
            if who.startswith("stock-"):
                release = who.removeprefix("stock-")
                yield release, stock, by[loop, fleet, f"plugin-{release}"]


@dataclass(frozen=True)
class Rows:
    """The rows of a table, by the titles of its columns."""

    machine: dict[str, Any]
    rows: list[dict[str, int | float | str]]


_FILES: dict[str, tuple[str, type[Any]]] = {
    "loops": ("benchmark.json", Loops),
    "scheduler": ("scheduler-loops.json", Scheduler),
    "page": ("page.json", Rows),
    "repair": ("repair.json", Rows),
}


def load(directory: Path) -> dict[str, Any]:
    """Read what the programs have kept there."""
    files = {program: (directory / name, TypeAdapter(kind)) for program, (name, kind) in _FILES.items()}
    return {name: kind.validate_json(file.read_bytes()) for name, (file, kind) in files.items() if file.exists()}


def save(program: str, results: object, directory: Path) -> None:
    """Write a line for each contender in each fleet, where JSON's own layout would take one for each figure."""
    name, kind = _FILES[program]
    text = TypeAdapter(kind).dump_json(results, indent=1).decode()
    text = _SHALLOW.sub(lambda found: re.sub(r"\n *", " ", found[0]), text)
    (directory / name).write_text(text + "\n", encoding="utf-8")
