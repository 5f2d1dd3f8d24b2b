"""All that one benchmark has found out, and the JSON file that keeps it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.lifecycle import LifeCycles
from benchmarks.measure import Cost
from benchmarks.plan import LOOP_RUNS, Shape

_TIS_OF_ANY_NUMBER_OF_RUNS = 500

# A value in JSON with at most one level inside: what a contender's loop costs, a threshold.
_SHALLOW = re.compile(r"[\[{](?:[^][{}]|[\[{][^][{}]*[\]}])*[\]}]")


@dataclass(frozen=True, order=True)
class FleetCosts(Shape):
    """What a loop of each contender costs in this fleet."""

    contenders: dict[str, Cost]


@dataclass(frozen=True)
class Results:
    """What was measured, and where."""

    machine: dict[str, Any]  # what it ran on: cores, memory, versions, settings
    seconds: int  # how long the benchmark took
    steady: list[FleetCosts]  # the loop in which nothing changed
    version_change: list[FleetCosts]  # the loop after a version change
    life_cycles: LifeCycles  # what the index costs the rest


def of_loop_runs(costs: Iterable[FleetCosts]) -> list[FleetCosts]:
    """Return the fleets of Airflow's own number of runs, which differ in their TIs."""
    return sorted(fleet for fleet in costs if fleet.runs == LOOP_RUNS)


def of_any_runs(costs: Iterable[FleetCosts]) -> list[FleetCosts]:
    """Return the fleets that differ in their runs."""
    return sorted(fleet for fleet in costs if fleet.tis == _TIS_OF_ANY_NUMBER_OF_RUNS)


def load(file: Path) -> Results:
    """Read what a benchmark has kept."""
    return TypeAdapter(Results).validate_json(file.read_bytes())


def save(results: Results, more: dict[str, Any], file: Path) -> None:
    """Write a line for each contender in each fleet, where JSON's own layout would take one for each figure."""
    text = json.dumps(asdict(results) | more, indent=1)
    file.write_text(_SHALLOW.sub(lambda found: re.sub(r"\n *", " ", found[0]), text) + "\n", encoding="utf-8")
