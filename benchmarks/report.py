"""Writes what a benchmark has found out: Markdown, JSON and plots."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import plots
from benchmarks.bars import UPDATE_BESIDE, Bar
from benchmarks.fleet import made_by_airflow
from benchmarks.lifecycle import LifeCycles
from benchmarks.measure import Cost
from benchmarks.plan import LOOP_RUNS, Shape
from benchmarks.results import Results

Costs = Mapping[Shape, Mapping[str, Cost]]
Cell = Callable[[Mapping[str, Cost], str], str]

NAMES = {
    "stock-3.1.6": "Airflow 3.1.6",
    "stock-3.3.2": "Airflow 3.3.2",
    "dagbump": "dagbump",
    "dagbump-index": "dagbump + index",
    "select-1": "`SELECT 1`",
    "update": "bare UPDATE",
    "update-index": "bare UPDATE + index",
}

_PROPOSAL_TASKS = (50, 100, 500)
_TIS_OF_ANY_NUMBER_OF_RUNS = 500  # of the fleets that differ in their runs
_NOTHING = "-"
# From here on, what stands behind the point says nothing.
_WHOLE, _WHOLE_MS = 10_000, 100

_INTRODUCTION = """\
# Benchmark

Made by `make bench`: one run, one PostgreSQL, the same fleets for all sides. The same figures with their spread, for
programs: [benchmark.json](benchmark.json). How each figure comes about is said [at the end](#how-it-is-measured).
"""

_STEADY = """\
## The loop in which nothing changed

It runs every second, for ever. Milliseconds, median; stock Airflow from its first statement to its commit.

![Steady loop by size of the runs](benchmark-steady.svg)
"""

_LANDING = """\
## The loop in which a new version lands

Every unfinished TI of every run is moved to the new version: six of ten. Milliseconds, median, from the first
statement to the commit. In brackets: the ratio to the bare UPDATE of the same rows, in the same database. The share of
*verify* is in the time of stock Airflow: reading the new DAG, and Airflow's `verify_integrity` per run, which a
scheduler that calls dagbump does as well. To compare moving with moving, take it off.

![Loop in which a version lands, by size of the runs](benchmark-landing.svg)
"""

_COUNTS = """\
## What each loop touches

Statements as the server counts them, without BEGIN and COMMIT. Buffers: pages of 8 kB looked at. WAL: the write-ahead
log, the commit included. TIs: task instances that became Python objects. Kept and peak: Python's memory at the end of
the work, before its result is let go, and at most (tracemalloc). Stale: unfinished TIs that are on an old version
afterwards.

Of Airflow 3.3.2 what is stale after a landing are the TIs whose state is NULL: its UPDATE says `state IN (NULL, …)`,
which no row satisfies, and no later loop comes back to them.
"""

_PROPOSAL = """\
## Memory before and after

The two tables of the proposal that dagbump goes back to. Memory that the scheduler's Python holds on to during each
steady loop, before (Airflow 3.1.6, which loads all TIs) and after (dagbump, with the index).
"""

_LIFE_CYCLES = """\
## What the index costs everybody else

A load of TI life cycles: insert, scheduled, queued, running, success, each in a transaction of its own, written as
Airflow writes them; two clients of pgbench against the same fleet without the index and with it, in turns. What Airflow
reads in between is left out; with it the share of the index would be smaller.
"""

_METHOD = """\
## How it is measured

- **Fleets.** Airflow parses, serializes and writes a real DAG and creates its runs (`DAG.create_dagrun`), in a database
  that `airflow db migrate` has made. The states are set by SQL: of ten TIs four are finished, three have no state yet,
  two are scheduled, one is running.{copies}
- **Stock Airflow.** A process of each release, in its own environment, on its own database, calls Airflow's own
  `DagRun.get_running_dag_runs_to_examine` and, per run, `SchedulerJobRunner._verify_integrity_if_dag_changed`, in one
  session and transaction, as the scheduler does. `max_dagruns_per_loop_to_schedule` is raised to the largest number of
  runs.
- **dagbump.** `dagbump.bump(connection, caller_verifies=True)` on a psycopg connection, on copies of the fleet of
  Airflow 3.3.2, without the optional index and with it.
- **Floors.** `SELECT 1` on the same kind of connection, in the same database; and `UPDATE task_instance SET
  dag_version_id = …, updated_at = clock_timestamp() WHERE id = ANY (…)` of the rows that the bump moves, in the same
  databases, the ids found before the clock starts.
- **Rounds** are interleaved: each side in turn, in alternating order; a slow side takes part in fewer of them
  (their number is in the JSON). All figures are medians. A ratio is the median of the ratios within each round, since
  the speed of a machine drifts; from fleet to fleet, sides are compared by what they are to
  `SELECT 1`. Time is taken with nothing traced; memory in a pass of its own.{untraced}
- **A landing round**: VACUUM, one steady loop (a scheduler has had one a second ago), a new `dag_version` with its
  `serialized_dag` (a copy of what Airflow wrote, under a new number), then the loop.
- Nothing else happens on the server: autovacuum and timed checkpoints are off. So is fsync: a commit costs every side
  the same, and would only hide the differences.
"""


def write(results: Results, held: Sequence[Bar], directory: Path) -> None:
    """Write benchmark.md, benchmark.json and the plots into the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    document = results.as_json() | {"bars": [vars(bar) | {"held": bar.held} for bar in held]}
    (directory / "benchmark.json").write_text(json.dumps(_rounded(document), indent=1) + "\n", encoding="utf-8")
    (directory / "benchmark.md").write_text(_markdown(results, held), encoding="utf-8")
    plots.write(results, directory)


def exact(value: float) -> str:
    """Write a figure with four digits."""
    return f"{value:,.0f}" if value == int(value) or abs(value) >= _WHOLE else f"{value:.4g}"


def _markdown(results: Results, held: Sequence[Bar]) -> str:
    sections = [
        _INTRODUCTION,
        _machine(results),
        _bars(held),
        _STEADY,
        _times(results.steady, _only_time),
        _LANDING,
        _times(results.landing, _time_and_ratio),
        _COUNTS,
        "### Nothing changed\n",
        _counts(results.steady),
        "### A version lands\n",
        _counts(results.landing),
        _PROPOSAL,
        _proposal(results.steady),
        _LIFE_CYCLES,
        _life_cycles(results.life_cycles, results.life_cycle_shape),
        _method(results),
    ]
    return "\n".join(sections)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Write a table, its first columns set to the left, the others to the right."""
    rule = ["---" if number < left else "---:" for number in range(len(header))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, rule, *rows))


def _machine(results: Results) -> str:
    machine = results.machine
    releases = ", ".join(
        f"Airflow {release} (Python {versions['python']}, SQLAlchemy {versions['sqlalchemy']})"
        for release, versions in machine["airflow"].items()
    )
    settings = ", ".join(f"`{name} = {value}`" for name, value in machine["settings"].items())
    return _table(
        ("", ""),
        [
            ("Date", machine["date"]),
            ("Took", f"{results.seconds / 60:.0f} minutes"),
            ("Machine", f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB of memory"),
            ("PostgreSQL", f"{machine['postgresql']}, {machine['postgresql_source']}; {settings}"),
            ("Stock", releases),
            (
                "dagbump",
                f"{machine['dagbump']}, revision {machine['dagbump_revision']}; Python {machine['python']}, "
                f"psycopg {machine['psycopg']}",
            ),
        ],
        left=2,
    )


def _bars(held: Sequence[Bar]) -> str:
    rows = [
        (
            bar.promise,
            bar.where,
            f"{exact(bar.limit)} {bar.unit}".strip(),
            f"{exact(bar.measured)} {bar.unit}".strip(),
            "held" if bar.held else "**missed**",
        )
        for bar in held
    ]
    kept = sum(bar.held for bar in held)
    title = f"## The bars: {kept} of {len(held)} held\n\n"
    return title + _table(("What", "Where", "At most", "Measured", ""), rows, left=2)


def _times(costs: Costs, cell: Cell) -> str:
    """Write a table of the fleets of 20 runs, and one of the fleets of 500 TIs."""
    sizes = [shape for shape in sorted(costs) if shape.runs == LOOP_RUNS]
    numbers = [shape for shape in sorted(costs) if shape.tis == _TIS_OF_ANY_NUMBER_OF_RUNS]
    tables = [_times_of(costs, sizes, cell)]
    if len(numbers) > 1:
        tables.append(_times_of(costs, numbers, cell))
    return "\n".join(tables)


def _times_of(costs: Costs, shapes: Sequence[Shape], cell: Cell) -> str:
    sides = [name for name in NAMES if any(name in costs[shape] for shape in shapes)]
    rows = [
        (str(shape), *(cell(costs[shape], name) if name in costs[shape] else _NOTHING for name in sides))
        for shape in shapes
    ]
    return _table(("Runs x TIs", *(NAMES[name] for name in sides)), rows)


def _only_time(sides: Mapping[str, Cost], name: str) -> str:
    return _ms(sides[name].ms.median)


def _time_and_ratio(sides: Mapping[str, Cost], name: str) -> str:
    cost = sides[name]
    if name in UPDATE_BESIDE:
        return f"{_ms(cost.ms.median)} ({cost.times(sides[UPDATE_BESIDE[name]]):.3f})"
    if cost.verify_ms:
        return f"{_ms(cost.ms.median)} (verify {_ms(cost.verify_ms)})"
    return _ms(cost.ms.median)


def _counts(costs: Costs) -> str:
    rows = [
        (
            str(shape),
            NAMES[name],
            exact(cost.touched.statements),
            exact(cost.touched.buffers),
            exact(cost.touched.wal_bytes),
            *(
                (exact(cost.memory.tis_loaded), _kilobytes(cost.memory.kept), _kilobytes(cost.memory.peak))
                if cost.memory
                else (_NOTHING,) * 3
            ),
            exact(cost.stale),
        )
        for shape, sides in sorted(costs.items())
        for name, cost in sorted(sides.items(), key=lambda item: list(NAMES).index(item[0]))
        if name != "select-1"
    ]
    header = ("Runs x TIs", "Side", "Statements", "Buffers", "WAL, bytes", "TIs", "Kept, kB", "Peak, kB", "Stale")
    return _table(header, rows, left=2)


def _proposal(steady: Costs) -> str:
    return "\n".join([_before_and_after(steady.get(Shape(LOOP_RUNS, 100), {})), _saved(steady)])


def _before_and_after(sides: Mapping[str, Cost]) -> str:
    rows = [
        (NAMES[name], exact(memory.tis_loaded), _kilobytes(memory.kept), _kilobytes(memory.peak))
        for name in ("stock-3.1.6", "stock-3.3.2", "dagbump", "dagbump-index")
        if name in sides and (memory := sides[name].memory)
    ]
    return _table((f"{LOOP_RUNS} runs x 100 tasks", "TIs loaded", "Kept, kB", "Peak, kB"), rows)


def _saved(steady: Costs) -> str:
    return _table(
        ("Tasks per run, 20 runs", "Before, kB", "After, kB", "Saved, kB", "Saved"),
        _saved_rows(steady),
    )


def _saved_rows(steady: Costs) -> Iterator[tuple[str, ...]]:
    for tasks in _PROPOSAL_TASKS:
        sides = steady.get(Shape(LOOP_RUNS, tasks), {})
        memories = [sides[name].memory for name in ("stock-3.1.6", "dagbump-index") if name in sides]
        before, after = memories if len(memories) > 1 else (None, None)
        if before and after:
            saved = before.kept - after.kept
            figures = (_kilobytes(value) for value in (before.kept, after.kept, saved))
            yield str(tasks), *figures, f"{saved / before.kept:.3%}"


def _life_cycles(cycles: LifeCycles, shape: Shape) -> str:
    def row(name: str, spread: object, form: str) -> tuple[str, ...]:
        return name, *(format(getattr(spread, which), form) for which in ("median", "low", "high"))

    table = _table(
        (f"Beside {shape}", "Median", "Lower quartile", "Upper quartile"),
        [
            row("Life cycles per second, without the index", cycles.without_index, ",.1f"),
            row("Life cycles per second, with the index", cycles.with_index, ",.1f"),
            row("Lost to the index", cycles.lost, ".2%"),
        ],
    )
    return f"{table}\n{cycles.lost.count} pairs of runs; standard error of the median loss: {cycles.lost_error:.2%}.\n"


def _method(results: Results) -> str:
    copied = [str(shape) for shape in sorted(results.steady) if not made_by_airflow(shape)]
    untraced = [
        f"{NAMES[name]} at {shape}"
        for shape, sides in sorted(results.landing.items())
        for name, cost in sides.items()
        if name.startswith("stock") and cost.memory is None
    ]
    return _METHOD.format(
        copies=f"\n  Of the fleets {', '.join(copied)} Airflow creates the first run, which SQL copies: it would take "
        "many minutes."
        if copied
        else "",
        untraced=f"\n  Not traced, as it would take minutes per loop: landing, {', '.join(untraced)}."
        if untraced
        else "",
    )


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= _WHOLE_MS else f"{value:.3g}"


def _kilobytes(value: float) -> str:
    return f"{value / 1000:,.1f}"


def _rounded(value: object) -> object:
    """Cut floats to what was measured, so that the file can be read."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
