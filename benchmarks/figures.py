"""The results of the programs, and the JSON files that keep them."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

LOOK = "look"  # for missing tasks
# A JSON value with at most one level inside, for example the cost of a contender.
_SHALLOW = re.compile(r"[\[{](?:[^][{}]|[\[{][^][{}]*[\]}])*[\]}]")
_NAMES = {
    "dagbump-index": "dagbump + index",
    "select-1": "`SELECT 1`",
    "update": "bare UPDATE",
    "update-index": "bare UPDATE + index",
}


def name_of(contender: str) -> str:
    """Return the name of a contender in documents and plots."""
    return _NAMES.get(contender, contender.replace("stock-", "Airflow "))


def names(fleets: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the contenders of these fleets, in the order of the plan."""
    return list(dict.fromkeys(name for contenders in fleets for name in contenders))


def figure(value: float) -> float:
    """Round to six digits; the clock does not give more."""
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

    statements: int  # sent by the client, without BEGIN and COMMIT, as the server counts them
    buffers: int  # pages of 8 kB that they read, from shared buffers or not
    wal_bytes: int  # written to the write-ahead log, including the commit


@dataclass(frozen=True)
class Memory:
    """How much of Python's memory a loop uses."""

    kept: int  # bytes still in use at the end of the loop, before its result is released
    peak: int  # bytes
    tis_loaded: int  # TIs that became Python objects


@dataclass(frozen=True)
class Cost:
    """The cost of a contender's loop in one fleet."""

    ms: Spread  # from the first statement to the end of the commit
    rounds: tuple[float, ...]  # the median of each round, in ms
    verify_ms: float  # of these, Airflow's verify_integrity and reading the DAG for it; median
    touched: Touched
    memory: Memory | None  # None: not traced
    stale: int  # TIs that are stale after the loop

    def times(self, other: Cost) -> float:
        """Return the ratio to another contender: the median of the ratios of each round.

        The speed of a machine drifts, but within a round it is the same for all. A slow contender has fewer rounds.
        """
        return statistics.median(mine / theirs for mine, theirs in zip(self.rounds, other.rounds, strict=False))


Costs = dict[str, dict[str, Cost]]  # by fleet ("20 x 500"), then by contender


@dataclass(frozen=True)
class LifeCycles:
    """Life cycles of TIs per second."""

    fleet: str  # in the same tables
    without_index: Spread
    with_index: Spread
    lost: Spread  # the share that the index costs, pair by pair; 0.03 is 3 %
    lost_error: float  # the standard error of its median


@dataclass(frozen=True)
class Rows:
    """The rows of a table, by column title."""

    machine: dict[str, Any]
    rows: list[dict[str, Any]]


Row = dict[str, Any]  # of a table, by column title


@dataclass(frozen=True)
class Tables:
    """Several tables, by name."""

    machine: dict[str, Any]
    tables: dict[str, list[Row]]


@dataclass(frozen=True)
class Results(Rows):
    """What the two programs measure that compare contenders. The rows are whole loops."""

    # By the kind of loop ("steady", "version change"), by what a new version brings ("a task"), or LOOK.
    costs: dict[str, Costs]
    life_cycles: LifeCycles | None = None  # the cost of the index for everybody else

    def pairs(self) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
        """Pair the whole loops of stock Airflow with those of the plugin, and name their release."""
        by = {(each["loop"], each["fleet"], each["who"]): each for each in self.rows}
        for (loop, fleet, who), stock in by.items():
            if who.startswith("stock-"):
                release = who.removeprefix("stock-")
                yield release, stock, by[loop, fleet, f"plugin-{release}"]


Figure = int | float | str
Figures = dict[str, Figure | dict[str, Figure]]  # by what they count; those of a table with columns, by column too


@dataclass(frozen=True)
class Proof:
    """What a test has counted, with what makes it (`support.proof`)."""

    command: str
    commit: str
    date: str
    figures: Figures


_FILES: dict[str, tuple[str, Any]] = {
    "loops": ("benchmark.json", Results),
    "scheduler": ("scheduler-loops.json", Results),
    "page": ("page.json", Rows),
    "repair": ("repair.json", Rows),
    "scale": ("scale.json", Tables),
    "proof": ("proof.json", dict[str, Proof]),  # by title
}


def load(directory: Path) -> dict[str, Any]:
    """Read the results that are in this directory, by program."""
    files = {program: (directory / name, TypeAdapter(kind)) for program, (name, kind) in _FILES.items()}
    return {name: kind.validate_json(file.read_bytes()) for name, (file, kind) in files.items() if file.exists()}


def save(program: str, results: Rows | Tables | dict[str, Proof], directory: Path) -> None:
    """Write one line per contender and fleet; JSON's own layout would be one line per figure."""
    name, kind = _FILES[program]
    text = TypeAdapter(kind).dump_json(results, indent=1).decode()
    text = _SHALLOW.sub(lambda found: re.sub(r"\n *", " ", found[0]), text)
    (directory / name).write_text(text + "\n", encoding="utf-8")
