"""The thresholds: what dagbump promises of its speed, held against what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.contenders import BASELINES
from benchmarks.plan import LOOP_RUNS
from benchmarks.results import FleetCosts, Results, of_loop_runs

_SELECT_ONE_RATIO = 5.0
_SIZE_RATIO = 1.2
_STEADY_TO_STOCK = {500: 1 / 4, 10_000: 1 / 2}
_LARGE_RUN = 500
_VERSION_CHANGE_RATIO_SMALL, _VERSION_CHANGE_RATIO = 1.5, 1.15
_KEPT_STEADY, _KEPT_VERSION_CHANGE = 20_000, 50_000  # of a loop of 20 runs
_LIFE_CYCLE_LOSS_PERCENT = 5.0

_VARIANTS = {"dagbump": "without the index", "dagbump-index": "with the index"}


@dataclass(frozen=True)
class Threshold:
    """One promise, one measurement."""

    promise: str
    where: str  # of which fleet
    limit: float  # the most that is allowed
    measured: float
    unit: str  # of both
    robust: bool = False  # whether it holds on any machine, however busy: it counts something, and is no timing

    @property
    def held(self) -> bool:
        """Say whether it holds."""
        return self.measured <= self.limit


def thresholds(results: Results) -> list[Threshold]:
    """Hold every promise against what was measured, as far as it was."""
    cycles = results.life_cycles
    lost = cycles.lost.median * 100
    return [
        *_steady(of_loop_runs(results.steady)),
        *_version_change(of_loop_runs(results.version_change)),
        *_counts("steady", results.steady, _KEPT_STEADY),
        *_counts("version change", results.version_change, _KEPT_VERSION_CHANGE),
        Threshold("What the index costs the life-cycle load", str(cycles.fleet), _LIFE_CYCLE_LOSS_PERCENT, lost, "%"),
    ]


def _steady(fleets: Sequence[FleetCosts]) -> Iterator[Threshold]:
    trips = [fleet.contenders["dagbump-index"].times(fleet.contenders["select-1"]) for fleet in fleets]
    for fleet, ratio in zip(fleets, trips, strict=True):
        promise = "Steady loop with the index, to a `SELECT 1` round trip"
        yield Threshold(promise, str(fleet), _SELECT_ONE_RATIO, ratio, "x")
    promise = "Steady loop with the index, in round trips, the largest runs to the smallest"
    yield Threshold(promise, f"{fleets[-1]} to {fleets[0]}", _SIZE_RATIO, trips[-1] / trips[0], "x")
    for fleet in fleets:
        if fleet.tis in _STEADY_TO_STOCK:
            ratio = fleet.contenders["dagbump"].times(fleet.contenders["stock-3.3.2"])
            promise = "Steady loop without the index, to stock 3.3.2"
            yield Threshold(promise, str(fleet), _STEADY_TO_STOCK[fleet.tis], ratio, "x")


def _version_change(fleets: Sequence[FleetCosts]) -> Iterator[Threshold]:
    for name, variant in _VARIANTS.items():
        promise = f"Loop after a version change, {variant}, to the bare UPDATE of the same rows"
        for fleet in fleets:
            limit = _VERSION_CHANGE_RATIO if fleet.tis >= _LARGE_RUN else _VERSION_CHANGE_RATIO_SMALL
            ratio = fleet.contenders[name].times(fleet.contenders[BASELINES[name]])
            yield Threshold(promise, str(fleet), limit, ratio, "x")


def _counts(kind: str, costs: Sequence[FleetCosts], kept_limit: float) -> Iterator[Threshold]:
    """Hold what is counted, the worst of all fleets, against the promises."""
    for name, variant in _VARIANTS.items():
        mine = [fleet.contenders[name] for fleet in costs]
        where = f"{kind}, {variant}, all fleets"
        yield Threshold("Statements", where, 1, max(cost.touched.statements for cost in mine), "", robust=True)
        loaded = max(cost.memory.tis_loaded for cost in mine if cost.memory)
        yield Threshold("TIs loaded into Python", where, 0, loaded, "", robust=True)
        yield Threshold("TIs still stale afterwards", where, 0, max(cost.stale for cost in mine), "", robust=True)
        if kind == "steady":
            yield Threshold("WAL", where, 0, max(cost.touched.wal_bytes for cost in mine), "bytes", robust=True)
        memories = [fleet.contenders[name].memory for fleet in of_loop_runs(costs)]
        kept = max(memory.kept for memory in memories if memory)
        where = f"{kind}, {variant}, {LOOP_RUNS} runs"
        yield Threshold("Python memory retained", where, kept_limit, kept, "bytes", robust=True)
