"""What is left of a scheduler's work with the plugin: all that was found out, and what dagbump promises of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.measure import Cost
from benchmarks.thresholds import Threshold

RELEASES = ("3.1.8", "3.3.2")  # whose version work is measured
EVERY_RELEASE = ("3.0.6", "3.1.8", "3.2.2", "3.3.2", "3.4.0b2")  # whose whole loops are
NOTHING, A_TASK, MAPPED = "nothing", "a task", "nothing, with a mapped task"  # what a new version brings
LOOKS = "one DAG", "20 DAGs"
_TO_UPDATE = {NOTHING: 1.3, A_TASK: 1.6}
_LEAST = 500  # TIs per run: of smaller ones most of the time is the round trips'
_LOOK_MS = 50.0
_LOOK_TIS = 500
_GOAL = "20 x 20", "3.3.2"  # a fleet as most people have it
_STATEMENTS = 72


@dataclass(frozen=True)
class Loops:
    """What whole loops took, in one fleet; milliseconds are medians.

    Attributes:
        fleet: runs x TIs.
        loop: "steady" or "version change".
        who: whose loop it is.
        ms: the whole loop.
        version_ms: of which bumping, verifying, and looking DAGs and their versions up.
        statements: what such a loop sends, examining included.
        peak: bytes that Python held at most; None where it was not traced.
        count: of how many loops.
    """

    fleet: str
    loop: str
    who: str
    ms: float
    version_ms: float
    statements: int
    peak: float | None
    count: int


@dataclass(frozen=True)
class Results:
    """All that was found out.

    Attributes:
        machine: what it ran on.
        version_work: by kind, then by fleet, then by contender.
        look: the look for missing tasks, by fleet, then by one of `LOOKS` and release.
        loops: whole loops.
    """

    machine: dict[str, Any]
    version_work: dict[str, dict[str, dict[str, Cost]]]
    look: dict[str, dict[str, Cost]]
    loops: list[Loops]


def load(file: Path) -> Results:
    """Read what was found out."""
    return TypeAdapter(Results).validate_json(file.read_bytes())


def thresholds(results: Results) -> Iterator[Threshold]:
    """Hold every promise against what was measured, as far as it was."""
    for kind, fleets in results.version_work.items():
        for fleet, costs in fleets.items():
            for release in RELEASES:
                plugin = costs[f"plugin-{release}"]
                where = f"{fleet}, {release}"
                if kind == MAPPED:
                    promise, ratio = "to stock", plugin.times(costs[f"stock-{release}"])
                    yield Threshold(f"Version work, {kind}, {promise}", where, 1, ratio, "x")
                    continue
                if plugin.memory:
                    loaded = plugin.memory.tis_loaded
                    yield Threshold(f"TIs loaded for it, {kind}", where, 0, loaded, "", robust=True)
                if _tis(fleet) >= _LEAST:
                    ratio = plugin.times(costs[f"update-{release}"])
                    promise = f"Version work, {kind}, to the bare UPDATE of the same rows"
                    yield Threshold(promise, where, _TO_UPDATE[kind], ratio, "x")
    for fleet, costs in results.look.items():
        if _tis(fleet) == _LOOK_TIS:
            for what, cost in costs.items():
                yield Threshold("The look for missing tasks", f"{fleet}, {what}", _LOOK_MS, cost.ms.median, "ms")
    yield from _of_loops(results.loops)


def _of_loops(loops: Iterable[Loops]) -> Iterator[Threshold]:
    steady = {(each.fleet, each.who): each for each in loops if each.loop == "steady"}
    for (fleet, who), plugin in steady.items():
        kind, _, release = who.partition("-")
        if kind != "plugin":
            continue
        stock = steady[fleet, f"stock-{release}"]
        where = f"{fleet}, {release}"
        if (fleet, release) == _GOAL:
            yield Threshold("Statements of a steady loop", where, _STATEMENTS, plugin.statements, "", robust=True)
            ratio = plugin.version_ms / stock.version_ms
            yield Threshold("Versions and DAGs in a steady loop, to stock", where, 1 / 5, ratio, "x")
            yield Threshold("A whole steady loop, to stock", where, 1 / 1.3, plugin.ms / stock.ms, "x")
        else:
            yield Threshold("A whole steady loop, to stock", where, 1, plugin.ms / stock.ms, "x")


def _tis(fleet: str) -> int:
    return int(fleet.rpartition(" ")[2].replace(",", ""))
