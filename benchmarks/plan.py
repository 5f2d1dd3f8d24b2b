"""What is measured, and how often: in full, and a quick form that only checks that the programs still work."""

from __future__ import annotations

from dataclasses import dataclass

from support.releases import environments

# Airflow's default for max_dagruns_per_loop_to_schedule. Most thresholds are about this number.
LOOP_RUNS = 20

# loops: the releases of stock Airflow. dagbump and the baselines run on the tables of the last one.
STOCK = ("3.1.6", "3.3.2")
LARGEST_RUN = {"3.1.6": 5_000}  # the most TIs per run, for a release that is too slow for more
# scheduler: the releases for whole loops, and those for the version work.
WHOLE_LOOPS = environments.SUPPORTED
VERSION_WORK = ("3.1.8", "3.3.2")
NOTHING, A_TASK, MAPPED = "nothing", "a task", "nothing, with a mapped task"  # what a new version brings
LOOKS = ("one DAG", "20 DAGs")  # the DAGs of the runs in the look for missing tasks


@dataclass(frozen=True, order=True)
class FleetSize:
    """The size of a fleet: the number of running runs, and of task instances (TIs) in each."""

    runs: int
    tis: int

    def __str__(self) -> str:
        return f"{self.runs:,} x {self.tis:,}"

    @classmethod
    def of(cls, text: str) -> FleetSize:
        """Read what `str` writes."""
        return cls(*(int(number.replace(",", "")) for number in text.split(" x ")))


@dataclass(frozen=True)
class Rounds:
    """How often a contender is measured: for some seconds, but at least and at most so many times."""

    seconds: float
    least: int
    most: int
    limit_seconds: float = 60  # ends the measurement whatever `least` says

    def are_enough(self, done: int, seconds: float) -> bool:
        return (done > 0 and seconds >= self.limit_seconds) or (done >= self.least and seconds >= self.seconds)


@dataclass(frozen=True)
class Plan:
    """The fleets and rounds of all programs. The defaults are the full form."""

    loops: tuple[FleetSize, ...] = (
        *(FleetSize(LOOP_RUNS, tis) for tis in (50, 100, 500, 5_000, 10_000)),
        *(FleetSize(runs, 500) for runs in (1, 200)),
    )
    life_cycles: FleetSize = FleetSize(LOOP_RUNS, 500)  # one of `loops`: the fleet beside the life-cycle load
    whole_loops: tuple[FleetSize, ...] = (FleetSize(1, 20), *(FleetSize(LOOP_RUNS, tis) for tis in (20, 100, 500)))
    version_work: FleetSize = FleetSize(LOOP_RUNS, 500)
    page: tuple[FleetSize, ...] = (FleetSize(LOOP_RUNS, 50), FleetSize(10_000, 20))
    repair: FleetSize = FleetSize(200, 500)
    large: FleetSize = FleetSize(5_000, 20)  # what runs in the large database; each DAG has 20 running runs
    finished_tis: int = 50_000_000  # in the same table
    versions: int = 16_000  # of its first DAG
    versions_seconds: int = 600  # one more per second
    schedulers: FleetSize = FleetSize(1_000, 20)
    processes: tuple[int, ...] = (1, 2, 4)  # of schedulers at once
    processes_seconds: int = 10
    large_change: Rounds = Rounds(seconds=5, least=3, most=15)  # of version changes there
    drop_caches: bool = True  # of the whole machine, before a call with cold caches
    steady: Rounds = Rounds(seconds=4, least=3, most=100)  # of loops in which nothing changed
    turn_seconds: float = 0.04  # a contender repeats a steady loop for so long in each round
    observed: Rounds = Rounds(
        seconds=0, least=3, most=3, limit_seconds=10
    )  # of steady loops whose effects the server counts
    version_change: Rounds = Rounds(seconds=10, least=5, most=25)  # of loops after a version change
    whole: Rounds = Rounds(seconds=3, least=3, most=25)  # of whole loops
    inspected_seconds: float = 5  # memory is not traced in longer loops, because it makes them many times slower
    life_cycle_pairs: int = 60  # of one second without the index, and one second with it
    page_rounds: int = 15


_SMALL = FleetSize(LOOP_RUNS, 50)
QUICK = Plan(
    loops=(_SMALL, Plan.life_cycles),
    whole_loops=(_SMALL,),
    version_work=_SMALL,
    page=(_SMALL,),
    repair=_SMALL,
    large=FleetSize(100, 20),
    finished_tis=5_000,
    versions=50,
    versions_seconds=2,
    schedulers=FleetSize(40, 20),
    processes=(2,),
    processes_seconds=1,
    large_change=Rounds(seconds=0, least=1, most=1),
    drop_caches=False,
    steady=Rounds(seconds=0.5, least=2, most=10),
    observed=Rounds(seconds=0, least=2, most=2),
    version_change=Rounds(seconds=0.5, least=1, most=3),
    whole=Rounds(seconds=0, least=1, most=1),
    inspected_seconds=1,
    life_cycle_pairs=2,
    page_rounds=2,
)
