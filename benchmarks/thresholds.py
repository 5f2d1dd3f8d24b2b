"""The thresholds: what dagbump promises about its speed, and whether the results keep it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import FleetCosts, Loops, Scheduler
from benchmarks.plan import A_TASK, LOOP_RUNS, MAPPED, NOTHING, VERSION_WORK

_TO_SELECT_ONE, _LARGEST_TO_SMALLEST = 5.0, 1.2  # steady loops with the index
_TO_STOCK = {500: 1 / 4, 10_000: 1 / 2}  # steady loops without it
_LARGE_RUN = 500  # TIs; in smaller runs, round trips take much of the time
_TO_UPDATE_SMALL, _TO_UPDATE = 1.5, 1.15  # loops after a version change
_KEPT = {"steady": 20_000, "version change": 50_000}  # bytes, of a loop of 20 runs
_LIFE_CYCLE_LOSS_PERCENT = 5.0
_PLUGIN_TO_UPDATE = {NOTHING: 1.3, A_TASK: 1.6}  # by what a new version brings
_LOOK_MS = 50.0
_GOAL, _STATEMENTS = ("20 x 20", "3.3.2"), 72  # a fleet as most people have it

# dagbump, its baseline, and its name in a sentence.
_VARIANTS = (("dagbump", "update", "without the index"), ("dagbump-index", "update-index", "with the index"))


@dataclass(frozen=True)
class Threshold:
    """One promise and one measurement."""

    promise: str
    where: str  # the fleet
    limit: float  # the highest value that is allowed
    measured: float
    unit: str = "x"  # of both
    robust: bool = False  # a count, not a time: it holds on any machine, however busy

    @property
    def held(self) -> bool:
        return self.measured <= self.limit


def thresholds(results: Any) -> Iterator[Threshold]:
    """Compare every promise with the results, as far as there are results."""
    if isinstance(results, Loops):
        fleets = [[fleet for fleet in costs if fleet.runs == LOOP_RUNS] for costs in _kinds(results).values()]
        yield from _steady(fleets[0])
        yield from _version_change(fleets[1])
        for kind, costs in _kinds(results).items():
            yield from _counts(kind, costs)
        lost = results.life_cycles.lost.median * 100
        fleet = str(results.life_cycles.fleet)
        yield Threshold("What the index costs the life-cycle load", fleet, _LIFE_CYCLE_LOSS_PERCENT, lost, "%")
    elif isinstance(results, Scheduler):
        yield from _version_work(results)
        yield from _look(results)
        yield from _whole_loops(results)


def _kinds(results: Loops) -> dict[str, list[FleetCosts]]:
    return {"steady": results.steady, "version change": results.version_change}


def _steady(fleets: Sequence[FleetCosts]) -> Iterator[Threshold]:
    trips = [fleet.contenders["dagbump-index"].times(fleet.contenders["select-1"]) for fleet in fleets]
    for fleet, ratio in zip(fleets, trips, strict=True):
        yield Threshold("Steady loop with the index, to a `SELECT 1` round trip", str(fleet), _TO_SELECT_ONE, ratio)
    promise = "Steady loop with the index, in round trips, the largest runs to the smallest"
    yield Threshold(promise, f"{fleets[-1]} to {fleets[0]}", _LARGEST_TO_SMALLEST, trips[-1] / trips[0])
    for fleet in fleets:
        if fleet.tis in _TO_STOCK:
            ratio = fleet.contenders["dagbump"].times(fleet.contenders["stock-3.3.2"])
            yield Threshold("Steady loop without the index, to stock 3.3.2", str(fleet), _TO_STOCK[fleet.tis], ratio)


def _version_change(fleets: Sequence[FleetCosts]) -> Iterator[Threshold]:
    for name, baseline, variant in _VARIANTS:
        promise = f"Loop after a version change, {variant}, to the bare UPDATE of the same rows"
        for fleet in fleets:
            limit = _TO_UPDATE if fleet.tis >= _LARGE_RUN else _TO_UPDATE_SMALL
            yield Threshold(promise, str(fleet), limit, fleet.contenders[name].times(fleet.contenders[baseline]))


def _counts(kind: str, fleets: Sequence[FleetCosts]) -> Iterator[Threshold]:
    """Compare the counts of the worst fleet with the promises."""
    for name, _, variant in _VARIANTS:
        where = f"{kind}, {variant}, all fleets"
        costs = [fleet.contenders[name] for fleet in fleets]
        loaded = max(cost.memory.tis_loaded for cost in costs if cost.memory)
        yield Threshold("Statements", where, 1, max(cost.touched.statements for cost in costs), "", robust=True)
        yield Threshold("TIs loaded into Python", where, 0, loaded, "", robust=True)
        yield Threshold("TIs still stale afterwards", where, 0, max(cost.stale for cost in costs), "", robust=True)
        if kind == "steady":
            yield Threshold("WAL", where, 0, max(cost.touched.wal_bytes for cost in costs), "bytes", robust=True)
        memories = [fleet.contenders[name].memory for fleet in fleets if fleet.runs == LOOP_RUNS]
        kept = max(memory.kept for memory in memories if memory)
        where = f"{kind}, {variant}, {LOOP_RUNS} runs"
        yield Threshold("Python memory retained", where, _KEPT[kind], kept, "bytes", robust=True)


def _version_work(results: Scheduler) -> Iterator[Threshold]:
    for kind, fleet, costs in results.each_version_work():
        for release in VERSION_WORK:
            plugin, where = costs[f"plugin-{release}"], f"{fleet}, {release}"
            if kind == MAPPED:
                yield Threshold(f"Version work, {kind}, to stock", where, 1, plugin.times(costs[f"stock-{release}"]))
                continue
            if plugin.memory:
                yield Threshold(f"TIs loaded for it, {kind}", where, 0, plugin.memory.tis_loaded, "", robust=True)
            if _tis(fleet) >= _LARGE_RUN:
                promise = f"Version work, {kind}, to the bare UPDATE of the same rows"
                yield Threshold(promise, where, _PLUGIN_TO_UPDATE[kind], plugin.times(costs[f"update-{release}"]))


def _look(results: Scheduler) -> Iterator[Threshold]:
    for fleet, costs in results.look.items():
        if _tis(fleet) == _LARGE_RUN:
            for what, cost in costs.items():
                yield Threshold("The look for missing tasks", f"{fleet}, {what}", _LOOK_MS, cost.ms.median, "ms")


def _whole_loops(results: Scheduler) -> Iterator[Threshold]:
    for release, stock, plugin in results.pairs():
        if stock.loop != "steady":
            continue
        where, goal = f"{stock.fleet}, {release}", (stock.fleet, release) == _GOAL
        if goal:
            yield Threshold("Statements of a steady loop", where, _STATEMENTS, plugin.statements, "", robust=True)
            ratio = plugin.version_ms / stock.version_ms
            yield Threshold("Versions and DAGs in a steady loop, to stock", where, 1 / 5, ratio)
        yield Threshold("A whole steady loop, to stock", where, 1 / 1.3 if goal else 1, plugin.ms / stock.ms)


def _tis(fleet: str) -> int:
    return int(fleet.rpartition(" ")[2].replace(",", ""))
