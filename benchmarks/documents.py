"""Writes the results into the documents: each table between its markers, with its source above it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from support.processes import CHECKOUT

from benchmarks import plots
from benchmarks.figures import LOOK, Cost, Costs, Figure, LifeCycles, Proof, Results, Rows, Tables, name_of, names
from benchmarks.plan import LOOKS, LOOP_RUNS, NOTHING, VERSION_WORK, FleetSize
from benchmarks.thresholds import thresholds

_BLOCK = re.compile(r"(<!-- generated: (\w+)/(.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
_BASELINES = {"dagbump": "update", "dagbump-index": "update-index"}  # an UPDATE of the same rows in the same database
_DASH = "-"
_NOT_RUN = "not run"
# The sizes that most fleets have: the README shows these alone.
_FLEETS_IN_SHORT = (f"{LOOP_RUNS} x 20", f"{LOOP_RUNS} x 100")
# From here on, a fraction says nothing.
_WHOLE, _WHOLE_MS = 10_000, 100


def write(results: Mapping[str, Any], root: Path) -> None:
    """Write the documents that have blocks, and the plots, into a checkout, or a directory like one."""
    for document in with_blocks():
        text = fill(document.read_text(encoding="utf-8"), results)
        (root / document.relative_to(CHECKOUT)).write_text(text, encoding="utf-8")
    if "loops" in results:
        plots.write(results["loops"], root / "docs")


def with_blocks() -> list[Path]:
    """Return the documents that have blocks."""
    files = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
    return [file for file in files if _BLOCK.search(file.read_text(encoding="utf-8"))]


def fill(document: str, results: Mapping[str, Any]) -> str:
    """Fill the blocks of a document. A block stays as it is if there are no results of its program."""

    def block(found: re.Match[str]) -> str:
        start, program, what, end = found.groups()
        if program not in results or (program == "proof" and what not in results["proof"]):
            return found[0]
        if program == "proof":
            proof = results["proof"][what]
            command, date, commit, table = proof.command, proof.date, proof.commit, _proof(proof)
        else:
            about = results[program].machine
            command, date = "make " + f"bench-{program}".removesuffix("-loops"), about["date"]
            commit, table = about.get("commit", "not recorded"), _block(what, results[program])
        return f"{start}\n`{command}`, {date}, commit {commit}:\n\n{table}\n{end}"

    return _BLOCK.sub(block, document)


def _block(what: str, results: Any) -> str:
    if isinstance(results, Tables) and what in results.tables:
        return _rows(results.tables[what])
    return _BLOCKS[what](results)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Return a table with its first columns aligned left, and the others right."""
    rows = list(rows)
    if not rows:
        return "Not measured.\n"
    rule = ["---" if number < left else "---:" for number in range(len(header))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, rule, *rows))


def _machine(results: Rows | Tables) -> str:
    about = results.machine
    took = about.get("seconds")
    settings = ", ".join(f"`{name} = {value}`" for name, value in about["settings"].items())
    stock = [f"{name} (Python {of['python']}, SQLAlchemy {of['sqlalchemy']})" for name, of in about["airflow"].items()]
    rows = {
        "Took": f"{took / 60:.0f} minutes" if took else "",
        "Machine": f"{about['cores']} cores ({about['processor']}), {about['memory_gib']} GiB of memory",
        "PostgreSQL": f"{about['postgresql']}, {about['postgresql_source']}; {settings}",
        "Airflow": ", ".join(stock),
        "dagbump": f"{about['dagbump']}, revision {about['dagbump_revision']}; Python {about['python']}, "
        f"psycopg {about['psycopg']}",
    }
    return _table(("", ""), ((what, text) for what, text in rows.items() if text), left=2)


def _thresholds(results: Rows) -> str:
    held = list(thresholds(results))
    rows = [
        (
            *(each.promise, each.where),
            *(f"{_exact(value)} {each.unit}".strip() for value in (each.limit, each.measured)),
            "held" if each.held else "**missed**",
        )
        for each in held
    ]
    kept = sum(each.held for each in held)
    return f"{kept} of {len(held)} held.\n\n" + _table(("What", "Where", "At most", "Measured", ""), rows, left=2)


def _times(costs: Costs) -> str:
    columns = names(costs.values())
    rows = [(fleet, *(_time(contenders, name) for name in columns)) for fleet, contenders in costs.items()]
    return _table(("Runs x TIs", *map(name_of, columns)), rows)


def _time(contenders: Mapping[str, Cost], name: str) -> str:
    """Return a time, with the ratio to its baseline, or the part that verify_integrity takes, if there is one."""
    cost, baseline = contenders.get(name), contenders.get(_BASELINES.get(name, ""))
    if cost is None:
        return _DASH
    ratio = f" ({cost.times(baseline):.3f})" if baseline else ""
    verify = f" (verify {_ms(cost.verify_ms)})" if cost.verify_ms else ""
    return _ms(cost.ms.median) + ratio + verify


def _counts(costs: Costs) -> str:
    header = ("Runs x TIs", "Contender", "Statements", "Buffers", "WAL, bytes", "TIs", "Kept, kB", "Peak, kB", "Stale")
    rows = [
        (fleet, name_of(name), *map(_exact, vars(cost.touched).values()), *_memory(cost), _exact(cost.stale))
        for fleet, contenders in costs.items()
        for name, cost in contenders.items()
        if name != "select-1"
    ]
    return _table(header, rows, left=2)


def _memory(cost: Cost) -> Sequence[str]:
    if cost.memory is None:
        return (_DASH,) * 3
    return _exact(cost.memory.tis_loaded), _kilobytes(cost.memory.kept), _kilobytes(cost.memory.peak)


def _memory_saved(costs: Costs) -> str:
    rows = []
    for fleet, contenders in costs.items():
        before, after = (getattr(contenders.get(name), "memory", None) for name in ("stock-3.1.6", "dagbump-index"))
        if FleetSize.of(fleet).runs == LOOP_RUNS and before and after:
            figures = (before.kept, after.kept, before.kept - after.kept)
            rows.append((fleet, *map(_kilobytes, figures), f"{1 - after.kept / before.kept:.4%}"))
    return _table(("Runs x TIs", "Before, kB", "After, kB", "Saved, kB", "Saved"), rows)


def _life_cycles(cycles: LifeCycles) -> str:
    spreads = {"per second, without the index": cycles.without_index, "with the index": cycles.with_index}
    rows = [[what, *(f"{value:,.1f}" for value in (of.median, of.low, of.high))] for what, of in spreads.items()]
    lost = [f"{value:.2%}" for value in (cycles.lost.median, cycles.lost.low, cycles.lost.high)]
    lost[0] += f" (standard error {cycles.lost_error:.2%})"
    header = (f"Life cycles, {cycles.lost.count} pairs of runs", "Median", "Lower quartile", "Upper quartile")
    return _table(header, [*rows, ["lost to the index", *lost]])


def _version_work(costs: Mapping[str, Costs]) -> str:
    rows = []
    for kind, fleet in ((kind, fleet) for kind, fleets in costs.items() if kind != LOOK for fleet in fleets):
        row = [kind, fleet]
        for release in VERSION_WORK:
            stock, plugin, update = (costs[kind][fleet][f"{who}-{release}"] for who in ("stock", "plugin", "update"))
            both = [f"{cost.ms.median:,.0f} ({_memory(cost)[0]})" for cost in (stock, plugin)]
            row += [*both, f"{plugin.times(update):.2f}"]
        rows.append(row)
    header = [f"{what} {release}" for release in VERSION_WORK for what in ("stock", "plugin", "plugin to bare UPDATE,")]
    return _table(("the new version brings", "runs x TIs", *header), rows, left=2)


def _version_work_in_short(costs: Mapping[str, Cost]) -> str:
    rows = [
        (release, who, _ms(cost.ms.median), _exact(cost.touched.statements), _memory(cost)[0])
        for release in VERSION_WORK
        for name, who in {"stock": "stock", "plugin": "dagbump", "update": "a bare UPDATE of the same rows"}.items()
        for cost in [costs[f"{name}-{release}"]]
    ]
    return _table(("Airflow", "who", "ms", "statements", "TIs loaded"), rows, left=2)


def _look(fleets: Costs) -> str:
    columns = [f"{dags}, {release}" for release in VERSION_WORK for dags in LOOKS]
    rows = [(where, *(f"{costs[name].ms.median:.3g}" for name in columns)) for where, costs in fleets.items()]
    return _table(("runs x TIs", *(f"{name}: ms" for name in columns)), rows)


def _whole_loops(results: Results) -> str:
    rows = [
        (
            *(stock["loop"], stock["fleet"], release),
            *(_ms(stock["ms"]), _ms(plugin["ms"]), f"{stock['ms'] / plugin['ms']:.2f} x"),
            *(_ms(each["version_ms"]) for each in (stock, plugin)),
            *(f"{each['statements']}" for each in (stock, plugin)),
            *(_DASH if each["peak"] is None else f"{each['peak'] / 1e6:,.1f}" for each in (stock, plugin)),
        )
        for release, stock, plugin in results.pairs()
    ]
    header = (
        *("loop", "runs x TIs", "Airflow", "stock, ms", "plugin, ms", "as fast as stock"),
        *("of it about versions and DAGs: stock", "plugin", "statements: stock", "plugin", "peak, MB: stock", "plugin"),
    )
    return _table(header, rows, left=3)


def _whole_loops_in_short(results: Results) -> str:
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for release, stock, plugin in results.pairs():
        if stock["fleet"] in _FLEETS_IN_SHORT:
            cell = f"{_ms(stock['ms'])}→{_ms(plugin['ms'])}"
            rows.setdefault((stock["loop"], stock["fleet"]), {})[release] = cell
    releases = list(dict.fromkeys(release for row in rows.values() for release in row))
    cells = [(*where, *(row.get(release, _DASH) for release in releases)) for where, row in rows.items()]
    return _table(("loop", "runs x TIs", *releases), cells, left=2)


def _rows(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [[value if isinstance(value, str) else _ms(value) for value in row.values()] for row in rows]
    left = len(list(takewhile(lambda value: isinstance(value, str), rows[0].values())))
    return _table(list(rows[0]), cells, left=left)


def _proof(proof: Proof) -> str:
    if grid := {what: row for what, row in proof.figures.items() if isinstance(row, dict)}:
        return _grid(grid)
    return _table(("", ""), [(what, _shown(count)) for what, count in proof.figures.items()])


def _grid(rows: Mapping[str, Mapping[str, Figure]]) -> str:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [(what, *(_shown(row.get(column, _NOT_RUN)) for column in columns)) for what, row in rows.items()]
    return _table(("", *columns), cells)


def _shown(count: Any) -> str:
    return count if isinstance(count, str) else _exact(count)


def _exact(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or abs(value) >= _WHOLE else f"{value:.4g}"


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= _WHOLE_MS else f"{value:.3g}"


def _kilobytes(value: float) -> str:
    return f"{value / 1000:,.1f}"


_BLOCKS: dict[str, Callable[[Any], str]] = {
    "machine": _machine,
    "thresholds": _thresholds,
    "times": lambda results: _rows(results.rows),
    "steady": lambda results: _times(results.costs["steady"]),
    "version change": lambda results: _times(results.costs["version change"]),
    "counts, steady": lambda results: _counts(results.costs["steady"]),
    "counts, version change": lambda results: _counts(results.costs["version change"]),
    "memory saved": lambda results: _memory_saved(results.costs["steady"]),
    "life cycles": lambda results: _life_cycles(results.life_cycles),
    "version work": lambda results: _version_work(results.costs),
    "version work, in short": lambda results: _version_work_in_short(results.costs[NOTHING]["20 x 500"]),
    "look": lambda results: _look(results.costs[LOOK]),
    "whole loops": _whole_loops,
    "whole loops, in short": _whole_loops_in_short,
}
