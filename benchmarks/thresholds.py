"""The thresholds: what dagbump promises about its speed, and whether the results keep it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.figures import LOOK, Costs, Results, Rows
from benchmarks.plan import A_TASK, LOOP_RUNS, MAPPED, NOTHING, VERSION_WORK, FleetSize

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


def _count(promise: str, where: str, limit: float, measured: float, unit: str = "") -> Threshold:
    return Threshold(promise, where, limit, measured, unit, robust=True)


def thresholds(results: Rows | None) -> Iterator[Threshold]:
    """Compare every promise with the results, as far as there are results."""
    if not isinstance(results, Results):
        return
    for kind, costs in results.costs.items():
        of_loop = {fleet: cost for fleet, cost in costs.items() if FleetSize.of(fleet).runs == LOOP_RUNS}
        if kind == "steady":
            yield from _steady(of_loop)
        elif kind == "version change":
            yield from _version_change(of_loop)
        elif kind == LOOK:
            yield from _look(costs)
        else:
            yield from _version_work(kind, costs)
    for kind in _KEPT:
        yield from _counts(kind, results.costs.get(kind, {}))
    if cycles := results.life_cycles:
        lost = cycles.lost.median * 100
        yield Threshold("What the index costs the life-cycle load", cycles.fleet, _LIFE_CYCLE_LOSS_PERCENT, lost, "%")
    yield from _whole_loops(results)


def _steady(fleets: Costs) -> Iterator[Threshold]:
    trips = {fleet: costs["dagbump-index"].times(costs["select-1"]) for fleet, costs in fleets.items()}
    for fleet, ratio in trips.items():
        yield Threshold("Steady loop with the index, to a `SELECT 1` round trip", fleet, _TO_SELECT_ONE, ratio)
    promise = "Steady loop with the index, in round trips, the largest runs to the smallest"
    (smallest, *_), (*_, largest) = fleets, fleets
    yield Threshold(promise, f"{largest} to {smallest}", _LARGEST_TO_SMALLEST, trips[largest] / trips[smallest])
    for fleet, costs in fleets.items():
        if limit := _TO_STOCK.get(FleetSize.of(fleet).tis):
            ratio = costs["dagbump"].times(costs["stock-3.3.2"])
            yield Threshold("Steady loop without the index, to stock 3.3.2", fleet, limit, ratio)


def _version_change(fleets: Costs) -> Iterator[Threshold]:
    for name, baseline, variant in _VARIANTS:
        promise = f"Loop after a version change, {variant}, to the bare UPDATE of the same rows"
        for fleet, costs in fleets.items():
            limit = _TO_UPDATE if FleetSize.of(fleet).tis >= _LARGE_RUN else _TO_UPDATE_SMALL
            yield Threshold(promise, fleet, limit, costs[name].times(costs[baseline]))


def _counts(kind: str, fleets: Costs) -> Iterator[Threshold]:
    """Compare the counts of the worst fleet with the promises."""
    for name, _, variant in _VARIANTS if fleets else ():
        where = f"{kind}, {variant}, all fleets"
        costs = {fleet: of_fleet[name] for fleet, of_fleet in fleets.items()}
        loaded = max(cost.memory.tis_loaded for cost in costs.values() if cost.memory)
        yield _count("Statements", where, 1, max(cost.touched.statements for cost in costs.values()))
        yield _count("TIs loaded into Python", where, 0, loaded)
        yield _count("TIs still stale afterwards", where, 0, max(cost.stale for cost in costs.values()))
        if kind == "steady":
            yield _count("WAL", where, 0, max(cost.touched.wal_bytes for cost in costs.values()), "bytes")
        memories = [cost.memory for fleet, cost in costs.items() if FleetSize.of(fleet).runs == LOOP_RUNS]
        kept = max(memory.kept for memory in memories if memory)
        yield _count("Python memory retained", f"{kind}, {variant}, {LOOP_RUNS} runs", _KEPT[kind], kept, "bytes")


def _version_work(kind: str, fleets: Costs) -> Iterator[Threshold]:
    for fleet, costs in fleets.items():
        for release in VERSION_WORK:
            plugin, where = costs[f"plugin-{release}"], f"{fleet}, {release}"
            if kind == MAPPED:
                yield Threshold(f"Version work, {kind}, to stock", where, 1, plugin.times(costs[f"stock-{release}"]))
                continue
            if plugin.memory:
                yield _count(f"TIs loaded for it, {kind}", where, 0, plugin.memory.tis_loaded)
            if FleetSize.of(fleet).tis >= _LARGE_RUN:
                promise = f"Version work, {kind}, to the bare UPDATE of the same rows"
                yield Threshold(promise, where, _PLUGIN_TO_UPDATE[kind], plugin.times(costs[f"update-{release}"]))


def _look(fleets: Costs) -> Iterator[Threshold]:
    for fleet, costs in fleets.items():
        if FleetSize.of(fleet).tis == _LARGE_RUN:
            for what, cost in costs.items():
                yield Threshold("The look for missing tasks", f"{fleet}, {what}", _LOOK_MS, cost.ms.median, "ms")


def _whole_loops(results: Results) -> Iterator[Threshold]:
    for release, stock, plugin in results.pairs():
        if stock["loop"] != "steady":
            continue
        where, goal = f"{stock['fleet']}, {release}", (stock["fleet"], release) == _GOAL
        if goal:
            yield _count("Statements of a steady loop", where, _STATEMENTS, plugin["statements"])
            ratio = plugin["version_ms"] / stock["version_ms"]
            yield Threshold("Versions and DAGs in a steady loop, to stock", where, 1 / 5, ratio)
        yield Threshold("A whole steady loop, to stock", where, 1 / 1.3 if goal else 1, plugin["ms"] / stock["ms"])
