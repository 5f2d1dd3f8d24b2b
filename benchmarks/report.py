"""Writes what a benchmark has found out into the document: each table between its markers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks import plots
from benchmarks.contenders import BASELINES, NAMES
from benchmarks.lifecycle import LifeCycles
from benchmarks.measure import Cost
from benchmarks.results import FleetCosts, Results, of_any_runs, of_loop_runs
from benchmarks.thresholds import Threshold

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmark.md"
_BLOCK = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)

_PROPOSAL_TASKS = (50, 100, 500)
_NOTHING = "-"
# From here on, what stands behind the point says nothing.
_WHOLE, _WHOLE_MS = 10_000, 100


def write(results: Results, held: Sequence[Threshold], directory: Path) -> None:
    """Write benchmark.md and the plots into the directory."""
    text = fill(DOCUMENT.read_text(encoding="utf-8"), results, held)
    (directory / DOCUMENT.name).write_text(text, encoding="utf-8")
    plots.write(results, directory)


def fill(document: str, results: Results, held: Sequence[Threshold]) -> str:
    """Put what was found out into a document, in place of what is between the markers there."""
    blocks = {
        "machine": _machine(results),
        "thresholds": thresholds_table(held),
        "steady": _times(results.steady),
        "version change": _times(results.version_change),
        "counts, steady": _counts(results.steady),
        "counts, version change": _counts(results.version_change),
        "memory": _memory(results.steady),
        "memory saved": _memory_saved(results.steady),
        "life cycles": _life_cycles(results.life_cycles),
    }
    return fill_blocks(document, blocks)


def fill_blocks(document: str, blocks: Mapping[str, str]) -> str:
    """Put texts into a document, each between the markers of its name."""
    return _BLOCK.sub(lambda found: f"{found[1]}\n{blocks[found[2]]}\n{found[3]}", document)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Write a table, its first columns set to the left, the others to the right."""
    rule = ["---" if number < left else "---:" for number in range(len(header))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, rule, *rows))


def _machine(results: Results) -> str:
    machine = results.machine
    settings = ", ".join(f"`{name} = {value}`" for name, value in machine["settings"].items())
    rows = {
        "Date": machine["date"],
        "Took": f"{results.seconds / 60:.0f} minutes",
        "Machine": f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB of memory",
        "PostgreSQL": f"{machine['postgresql']}, {machine['postgresql_source']}; {settings}",
        "Stock": ", ".join(
            f"Airflow {release} (Python {versions['python']}, SQLAlchemy {versions['sqlalchemy']})"
            for release, versions in machine["airflow"].items()
        ),
        "dagbump": f"{machine['dagbump']}, revision {machine['dagbump_revision']}; Python {machine['python']}, "
        f"psycopg {machine['psycopg']}",
    }
    return table(("", ""), rows.items(), left=2)


def thresholds_table(held: Sequence[Threshold]) -> str:
    """Write what was promised and measured, and how many of it held."""
    rows = [
        (
            threshold.promise,
            threshold.where,
            f"{_exact(threshold.limit)} {threshold.unit}".strip(),
            f"{_exact(threshold.measured)} {threshold.unit}".strip(),
            "held" if threshold.held else "**missed**",
        )
        for threshold in held
    ]
    kept = sum(threshold.held for threshold in held)
    return f"{kept} of {len(held)} held.\n\n" + table(("What", "Where", "At most", "Measured", ""), rows, left=2)


def _times(costs: Sequence[FleetCosts]) -> str:
    """Write a table of the fleets of 20 runs, and one of the fleets of 500 TIs."""
    return "\n".join(map(_times_of, (of_loop_runs(costs), of_any_runs(costs))))


def _times_of(fleets: Sequence[FleetCosts]) -> str:
    names = [name for name in NAMES if any(name in fleet.contenders for fleet in fleets)]
    rows = [(str(fleet), *(_time(fleet.contenders, name) for name in names)) for fleet in fleets]
    return table(("Runs x TIs", *(NAMES[name] for name in names)), rows)


def _time(contenders: Mapping[str, Cost], name: str) -> str:
    """Write a time, and what it is to the baseline, or how much of it verifying takes, where there is such a thing."""
    cost, baseline = contenders.get(name), contenders.get(BASELINES.get(name, ""))
    if cost is None:
        return _NOTHING
    ratio = f" ({cost.times(baseline):.3f})" if baseline else ""
    verify = f" (verify {_ms(cost.verify_ms)})" if cost.verify_ms else ""
    return _ms(cost.ms.median) + ratio + verify


def _counts(costs: Sequence[FleetCosts]) -> str:
    header = ("Runs x TIs", "Contender", "Statements", "Buffers", "WAL, bytes", "TIs", "Kept, kB", "Peak, kB", "Stale")
    rows = [
        (
            str(fleet),
            NAMES[name],
            *map(_exact, (cost.touched.statements, cost.touched.buffers, cost.touched.wal_bytes)),
            *_memory_cells(cost),
            _exact(cost.stale),
        )
        for fleet in costs
        for name in NAMES
        if name != "select-1" and (cost := fleet.contenders.get(name))
    ]
    return table(header, rows, left=2)


def _memory(steady: Sequence[FleetCosts]) -> str:
    rows = [
        (NAMES[name], *_memory_cells(cost))
        for fleet in of_loop_runs(steady)
        for name in NAMES
        if fleet.tis == _PROPOSAL_TASKS[1] and (cost := fleet.contenders.get(name)) and cost.memory
    ]
    return table(("20 runs x 100 tasks", "TIs loaded", "Kept, kB", "Peak, kB"), rows)


def _memory_cells(cost: Cost) -> Sequence[str]:
    if cost.memory is None:
        return (_NOTHING,) * 3
    return _exact(cost.memory.tis_loaded), _kilobytes(cost.memory.kept), _kilobytes(cost.memory.peak)


def _memory_saved(steady: Sequence[FleetCosts]) -> str:
    rows = []
    for fleet in of_loop_runs(steady):
        before, after = (fleet.contenders.get(name) for name in ("stock-3.1.6", "dagbump-index"))
        if fleet.tis in _PROPOSAL_TASKS and before and before.memory and after and after.memory:
            saved = before.memory.kept - after.memory.kept
            figures = map(_kilobytes, (before.memory.kept, after.memory.kept, saved))
            rows.append((str(fleet.tis), *figures, f"{saved / before.memory.kept:.3%}"))
    return table(("Tasks per run, 20 runs", "Before, kB", "After, kB", "Saved, kB", "Saved"), rows)


def _life_cycles(cycles: LifeCycles) -> str:
    rows = [
        (name, *(format(value, form) for value in (spread.median, spread.low, spread.high)))
        for name, spread, form in (
            ("Life cycles per second, without the index", cycles.without_index, ",.1f"),
            ("Life cycles per second, with the index", cycles.with_index, ",.1f"),
            ("Lost to the index", cycles.lost, ".2%"),
        )
    ]
    lost = table((f"Beside {cycles.fleet}", "Median", "Lower quartile", "Upper quartile"), rows)
    return f"{lost}\n{cycles.lost.count} pairs of runs; standard error of the median loss: {cycles.lost_error:.2%}.\n"


def _exact(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or abs(value) >= _WHOLE else f"{value:.4g}"


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= _WHOLE_MS else f"{value:.3g}"


def _kilobytes(value: float) -> str:
    return f"{value / 1000:,.1f}"
