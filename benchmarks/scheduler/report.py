"""Writes what is left of a scheduler's work into docs/scheduler-loops.md: each table between its markers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.measure import Cost
from benchmarks.report import fill_blocks, table, thresholds_table
from benchmarks.scheduler.results import LOOKS, RELEASES, Loops, Results, thresholds

_WHOLE_MS = 100  # from which on no fraction is shown
DOCUMENT = Path(__file__).parents[2] / "docs" / "scheduler-loops.md"


def fill(document: str, results: Results) -> str:
    """Put what was found out into a document, in place of what is between the markers there."""
    about = results.machine
    blocks = {
        "machine": f"{about['date']}; {about['cores']} cores ({about['processor']}); PostgreSQL {about['postgresql']}, "
        f"{about['postgresql_source']}; dagbump {about['dagbump']}, revision {about['dagbump_revision']}.\n",
        "thresholds": thresholds_table(list(thresholds(results))),
        "version work": _version_work(results),
        "look": _look(results),
        "whole loops": _whole_loops(results),
    }
    return fill_blocks(document, blocks)


def _version_work(results: Results) -> str:
    rows = [
        (
            kind,
            where,
            *(
                cell
                for release in RELEASES
                for cell in (
                    f"{costs[f'stock-{release}'].ms.median:,.0f} ({_loaded(costs[f'stock-{release}'])})",
                    f"{costs[f'plugin-{release}'].ms.median:,.0f} ({_loaded(costs[f'plugin-{release}'])})",
                    f"{costs[f'plugin-{release}'].times(costs[f'update-{release}']):.2f}",
                )
            ),
        )
        for kind, fleets in results.version_work.items()
        for where, costs in fleets.items()
    ]
    header = [f"{what} {release}" for release in RELEASES for what in ("stock", "plugin", "plugin to bare UPDATE,")]
    return table(("the new version brings", "runs x TIs", *header), rows, left=2)


def _loaded(cost: Cost) -> str:
    return f"{cost.memory.tis_loaded:,}" if cost.memory else "-"


def _look(results: Results) -> str:
    rows = [
        (where, *(f"{costs[f'{dags}, {release}'].ms.median:.3g}" for release in RELEASES for dags in LOOKS))
        for where, costs in results.look.items()
    ]
    return table(("runs x TIs", *(f"{dags}, {release}: ms" for release in RELEASES for dags in LOOKS)), rows)


def _whole_loops(results: Results) -> str:
    rows = []
    for stock, plugin in _pairs(results.loops):
        rows.append(
            (
                stock.loop,
                stock.fleet,
                stock.who.partition("-")[2],
                _ms(stock.ms),
                _ms(plugin.ms),
                f"{stock.ms / plugin.ms:.2f} x",
                _ms(stock.version_ms),
                _ms(plugin.version_ms),
                f"{stock.statements}",
                f"{plugin.statements}",
                *("-" if each.peak is None else f"{each.peak / 1e6:,.1f}" for each in (stock, plugin)),
            )
        )
    header = (
        *("loop", "runs x TIs", "Airflow", "stock, ms", "plugin, ms", "as fast as stock"),
        *("of it about versions and DAGs: stock", "plugin", "statements: stock", "plugin", "peak, MB: stock", "plugin"),
    )
    return table(header, rows, left=3)


def _ms(ms: float) -> str:
    return f"{ms:,.0f}" if ms >= _WHOLE_MS else f"{ms:.3g}"


def _pairs(loops: Sequence[Loops]) -> Iterator[tuple[Loops, Loops]]:
    """Pair what stock and plugin took."""
    by = {(each.loop, each.fleet, each.who): each for each in loops}
    for (loop, fleet, who), stock in by.items():
        kind, _, release = who.partition("-")
        if kind == "stock":
            yield stock, by[loop, fleet, f"plugin-{release}"]
