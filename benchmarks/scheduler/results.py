"""What is left of a scheduler's work with the plugin: all that was found out, and what dagbump promises of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.measure import Cost
from benchmarks.thresholds import Threshold

RELEASES = ("3.1.6", "3.3.2")
NOTHING, A_TASK, MAPPED = "nothing", "a task", "nothing, with a mapped task"  # what a new version brings
LOOKS = "one DAG", "20 DAGs"
_TO_UPDATE = {NOTHING: 1.5, A_TASK: 2.0}
_LEAST = 500  # TIs per run: of smaller ones most of the time is the round trips'
_LOOK_MS = 50.0
_LOOK_TIS = 500


@dataclass(frozen=True)
class Loops:
    """What whole loops took, in one fleet; milliseconds are medians.

    Attributes:
        fleet: runs x TIs.
        loop: "steady" or "version change".
        conf: bytes of each run's conf.
        who: whose loop it is.
        ms: the whole loop.
        version_ms: of which examining, bumping, verifying, and reading the DAG for it.
        peak: bytes that Python held at most; None where it was not traced.
        count: of how many loops.
    """

    fleet: str
    loop: str
    conf: int
    who: str
    ms: float
    version_ms: float
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


def _tis(fleet: str) -> int:
    return int(fleet.rpartition(" ")[2].replace(",", ""))
