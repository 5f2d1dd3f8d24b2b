"""The bars: what dagbump promises of its speed, held against what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.measure import Cost
from benchmarks.plan import LOOP_RUNS, Shape
from benchmarks.results import Results

SELECT_ONE_RATIO = 5.0
SIZE_RATIO = 1.2
STEADY_TO_STOCK = {500: 1 / 4, 10_000: 1 / 2}
LANDING_RATIO_SMALL, LANDING_RATIO = 1.5, 1.15
LARGE_RUN = 500
KEPT_STEADY, KEPT_LANDING = 20_000, 50_000
LIFE_CYCLE_LOSS = 0.05

DAGBUMP = {"dagbump": "without the index", "dagbump-index": "with the index"}
UPDATE_BESIDE = {"dagbump": "update", "dagbump-index": "update-index"}


@dataclass(frozen=True)
class Bar:
    """One promise, one measurement.

    Attributes:
        promise: what is promised.
        where: of which fleet.
        limit: the most that is allowed.
        measured: what it is.
        unit: of both.
        robust: whether it holds on any machine, however busy: no timing.
    """

    promise: str
    where: str
    limit: float
    measured: float
    unit: str
    robust: bool = False

    @property
    def held(self) -> bool:
        """Say whether it holds; nothing is rounded first."""
        return self.measured <= self.limit


def bars(results: Results) -> list[Bar]:
    """Hold every promise against what was measured, as far as it was."""
    return [
        *_steady_with_index(results),
        *_steady_without_index(results),
        *_landing(results),
        *_counts(results),
        *_life_cycles(results),
    ]


def _loop_fleets(costs: dict[Shape, dict[str, Cost]]) -> Iterator[tuple[Shape, dict[str, Cost]]]:
    """Yield the fleets of Airflow's own number of runs, in order of size."""
    for shape in sorted(costs):
        if shape.runs == LOOP_RUNS:
            yield shape, costs[shape]


def _steady_with_index(results: Results) -> Iterator[Bar]:
    trips = {}
    for shape, sides in _loop_fleets(results.steady):
        trips[shape] = sides["dagbump-index"].times(sides["select-1"])
        yield Bar(
            "Steady loop with the index, to a `SELECT 1` round trip",
            str(shape),
            SELECT_ONE_RATIO,
            trips[shape],
            "x",
        )
    smallest, largest = min(trips), max(trips)
    yield Bar(
        "Steady loop with the index, in round trips, the largest runs to the smallest",
        f"{largest} to {smallest}",
        SIZE_RATIO,
        trips[largest] / trips[smallest],
        "x",
    )


def _steady_without_index(results: Results) -> Iterator[Bar]:
    for shape, sides in _loop_fleets(results.steady):
        if shape.tis in STEADY_TO_STOCK:
            yield Bar(
                "Steady loop without the index, to stock 3.3.2",
                str(shape),
                STEADY_TO_STOCK[shape.tis],
                sides["dagbump"].times(sides["stock-3.3.2"]),
                "x",
            )


def _landing(results: Results) -> Iterator[Bar]:
    for name, variant in DAGBUMP.items():
        for shape, sides in _loop_fleets(results.landing):
            yield Bar(
                f"Loop in which a version lands, {variant}, to the bare UPDATE of the same rows",
                str(shape),
                LANDING_RATIO if shape.tis >= LARGE_RUN else LANDING_RATIO_SMALL,
                sides[name].times(sides[UPDATE_BESIDE[name]]),
                "x",
            )


def _counts(results: Results) -> Iterator[Bar]:
    """Hold what is counted, the worst of all fleets, against the promises."""
    for kind, costs in (("steady", results.steady), ("landing", results.landing)):
        for name, variant in DAGBUMP.items():
            mine = [sides[name] for sides in costs.values()]
            where = f"{kind}, {variant}, all fleets"
            yield Bar("Statements", where, 1, max(cost.touched.statements for cost in mine), "", robust=True)
            tis = max(cost.memory.tis_loaded for cost in mine if cost.memory)
            yield Bar("TIs loaded into Python", where, 0, tis, "", robust=True)
            yield Bar("TIs still stale afterwards", where, 0, max(cost.stale for cost in mine), "", robust=True)
            if kind == "steady":
                wal = max(cost.touched.wal_bytes for cost in mine)
                yield Bar("WAL", where, 0, wal, "bytes", robust=True)
            # The promise of 50 kB is about a loop of 20 runs.
            kept = max(memory.kept for _, sides in _loop_fleets(costs) if (memory := sides[name].memory))
            limit = KEPT_STEADY if kind == "steady" else KEPT_LANDING
            yield Bar("Python memory retained", f"{kind}, {variant}, 20 runs", limit, kept, "bytes", robust=True)


def _life_cycles(results: Results) -> Iterator[Bar]:
    yield Bar(
        "What the index costs the life-cycle load",
        str(results.life_cycle_shape),
        LIFE_CYCLE_LOSS * 100,
        results.life_cycles.lost.median * 100,
        "%",
    )
