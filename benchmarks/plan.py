"""What is measured, and for how long: the full benchmark and the quick one."""

from __future__ import annotations

from dataclasses import dataclass

# Airflow's own default (max_dagruns_per_loop_to_schedule), and the number that most thresholds are about.
LOOP_RUNS = 20
# Of an Airflow release: the most TIs per run that it is measured with.
_LARGEST_RUN = {"3.1.6": 5_000}


@dataclass(frozen=True, order=True)
class Shape:
    """A fleet: so many running runs of one DAG, with so many task instances (TIs) each."""

    runs: int
    tis: int

    def __str__(self) -> str:
        return f"{self.runs} x {self.tis:,}"

    def is_for(self, release: str) -> bool:
        """Say whether that release of Airflow is measured with it."""
        return self.tis <= _LARGEST_RUN.get(release, self.tis)


@dataclass(frozen=True)
class Rounds:
    """How often a contender is measured."""

    seconds: float  # until its time is up,
    least: int  # but not less often than this,
    most: int  # and not more often than this
    limit_seconds: float = 60  # whatever `least` says, not again when it has taken so long

    def are_enough(self, done: int, seconds: float) -> bool:
        """Say whether a contender that has taken part in so many of them, for so long, may rest."""
        if done and seconds >= self.limit_seconds:
            return True
        return done >= self.least and seconds >= self.seconds


@dataclass(frozen=True)
class Plan:
    """One benchmark."""

    shapes: tuple[Shape, ...]
    steady: Rounds  # of loops in which nothing changed
    steady_turn_seconds: float  # a contender's turn in such a round: one loop, and more of them until this is over
    observed: Rounds  # of such loops, in which the server is asked what they did to it
    version_change: Rounds  # of loops after a version change
    inspected_seconds: float  # such a loop that works in Python and takes longer is not traced, which takes far longer
    life_cycle_shape: Shape  # the fleet, one of those, that the life-cycle load runs beside
    life_cycle_pairs: int  # how often the life-cycle load runs without and with the index, a second each time


FULL = Plan(
    shapes=(
        *(Shape(LOOP_RUNS, tis) for tis in (50, 100, 500, 5_000, 10_000)),
        *(Shape(runs, 500) for runs in (1, 200)),
    ),
    steady=Rounds(seconds=4, least=3, most=100),
    steady_turn_seconds=0.04,
    observed=Rounds(seconds=0, least=3, most=3, limit_seconds=10),
    version_change=Rounds(seconds=10, least=5, most=25),
    inspected_seconds=5,
    life_cycle_shape=Shape(LOOP_RUNS, 500),
    life_cycle_pairs=60,
)

QUICK = Plan(
    shapes=(Shape(LOOP_RUNS, 50), Shape(LOOP_RUNS, 500)),
    steady=Rounds(seconds=0.5, least=2, most=10),
    steady_turn_seconds=0.02,
    observed=Rounds(seconds=0, least=2, most=2),
    version_change=Rounds(seconds=0.5, least=1, most=3),
    inspected_seconds=1,
    life_cycle_shape=Shape(LOOP_RUNS, 500),
    life_cycle_pairs=2,
)
