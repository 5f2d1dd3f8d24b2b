"""Writes what is left of a scheduler's work into docs/scheduler-loops.md: each table between its markers."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure import Cost
from benchmarks.report import fill_blocks, table, thresholds_table
from benchmarks.scheduler.results import LOOKS, RELEASES, Results, thresholds

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
    rows = [
        (
            loops.loop,
            loops.fleet,
            f"{loops.conf:,}",
            loops.who,
            f"{loops.ms:,.0f}",
            f"{loops.version_ms:,.0f}",
            "-" if loops.peak is None else f"{loops.peak / 1e6:,.1f}",
        )
        for loops in results.loops
    ]
    header = ("loop", "runs x TIs", "conf, bytes", "who", "whole loop, ms", "of it about versions, ms", "peak, MB")
    return table(header, rows, left=4)
