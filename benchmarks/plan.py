"""What is measured, and for how long: the full benchmark and the quick one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

# Airflow's own default (max_dagruns_per_loop_to_schedule), and the number that most bars are about.
LOOP_RUNS = 20

# Up to here Airflow itself creates every run of a fleet; above, one run, which SQL copies.
MOST_TIS_BY_AIRFLOW = 10_000

_LIFE_CYCLE_TIS = 10_000


@dataclass(frozen=True, order=True)
class Shape:
    """A fleet: so many running runs of one DAG, with so many task instances (TIs) each."""

    runs: int
    tis: int

    def __str__(self) -> str:
        return f"{self.runs} x {self.tis:,}"

    @property
    def total(self) -> int:
        """All its TIs."""
        return self.runs * self.tis


@dataclass(frozen=True)
class Rounds:
    """How often a side is measured.

    Attributes:
        seconds: until its time is up,
        least: but not less often than this,
        most: and not more often than this.
        limit_seconds: whatever ``least`` says, not again when it has taken so long.
    """

    seconds: float
    least: int
    most: int
    limit_seconds: float = 60


@dataclass(frozen=True)
class Plan:
    """One benchmark.

    Attributes:
        shapes: the fleets.
        largest_run: for a side, the most TIs per run that it is measured with; all fleets where it is not named.
        steady: rounds of loops in which nothing changed.
        steady_turn_seconds: a side's turn in such a round: one loop, and more of them until this is over.
        observed: rounds of such loops in which the server is asked what they did to it.
        landing: rounds of loops in which a new version lands.
        inspected_landing_seconds: tracing memory slows Python down several times; a landing loop that does its work
            in Python and takes longer than this is not traced.
        life_cycle_pairs: how often the life-cycle load runs without and with the index.
        life_cycle_seconds: how long, each time.
    """

    shapes: tuple[Shape, ...]
    largest_run: dict[str, int]
    steady: Rounds
    steady_turn_seconds: float
    observed: Rounds
    landing: Rounds
    inspected_landing_seconds: float
    life_cycle_pairs: int
    life_cycle_seconds: int

    def only(self, names: Iterable[str] | None) -> Plan:
        """Return the plan with these fleets alone, named as in 20x500; None: with all of them."""
        if not names:
            return self
        return replace(self, shapes=tuple(Shape(*map(int, name.split("x"))) for name in names))

    @property
    def life_cycle_shape(self) -> Shape:
        """The fleet that the life-cycle load runs beside: 20 x 500, or what comes nearest to it."""
        return min(self.shapes, key=lambda shape: abs(shape.total - _LIFE_CYCLE_TIS))


FULL = Plan(
    shapes=(
        Shape(LOOP_RUNS, 50),
        Shape(LOOP_RUNS, 100),
        Shape(LOOP_RUNS, 500),
        Shape(1, 500),
        Shape(200, 500),
        Shape(LOOP_RUNS, 5_000),
        Shape(LOOP_RUNS, 10_000),
    ),
    largest_run={"stock-3.1.6": 5_000},
    steady=Rounds(seconds=4, least=3, most=100),
    steady_turn_seconds=0.04,
    observed=Rounds(seconds=0, least=3, most=3, limit_seconds=10),
    landing=Rounds(seconds=10, least=5, most=25),
    inspected_landing_seconds=5,
    life_cycle_pairs=60,
    life_cycle_seconds=1,
)

QUICK = Plan(
    shapes=(Shape(LOOP_RUNS, 50), Shape(LOOP_RUNS, 500)),
    largest_run={},
    steady=Rounds(seconds=0.5, least=2, most=10),
    steady_turn_seconds=0.02,
    observed=Rounds(seconds=0, least=2, most=2),
    landing=Rounds(seconds=0.5, least=1, most=3),
    inspected_landing_seconds=1,
    life_cycle_pairs=2,
    life_cycle_seconds=1,
)
