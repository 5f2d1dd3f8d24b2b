"""``python -m benchmarks``, with ``tests`` on PYTHONPATH: what ``make bench`` and ``make bench-quick`` run."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import bench, report, results
from benchmarks.measure import figure
from benchmarks.plan import FULL, QUICK
from benchmarks.thresholds import thresholds

_DOCS = report.DOCUMENT.parent
_QUICK_OUTPUT = _DOCS.parent / ".cache" / "benchmark"

_console = Console(stderr=True, highlight=False)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Two fleets and few rounds, to keep it from rotting.")] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Measure nothing: write the document and the plots from the JSON.")
    ] = False,
) -> None:
    """Measure dagbump, stock Airflow and the baselines, and write the report.

    With --quick it fails where a threshold is missed that holds on any machine: one that counts something, not a
    timing.
    """
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]  # libpq would heed it
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: clean up
    directory = _QUICK_OUTPUT if quick else _DOCS
    file = directory / "benchmark.json"
    measured = results.load(file) if report_only else _measure(quick=quick)
    held = thresholds(measured)
    if not report_only:
        directory.mkdir(parents=True, exist_ok=True)
        more = [vars(each) | {"measured": figure(each.measured), "held": each.held} for each in held]
        results.save(measured, {"thresholds": more}, file)
    report.write(measured, held, directory)
    _console.print(report.thresholds_table(held), markup=False, soft_wrap=True)
    _console.print(f"Written to {os.path.relpath(directory)}; measured in {measured.seconds / 60:.1f} minutes.")
    if quick and not all(threshold.held for threshold in held if threshold.robust):
        sys.exit(1)


def _measure(*, quick: bool) -> results.Results:
    """Measure, and say what goes on: in one line on a terminal, else in one after the other."""
    start = time.monotonic()
    with _console.status("") as status:

        def say(message: str) -> None:
            message = f"{time.monotonic() - start:6.0f} s  {message}"
            status.update(message)
            if not _console.is_terminal:
                _console.print(message, soft_wrap=True)

        return bench.run(QUICK if quick else FULL, say)


if __name__ == "__main__":
    typer.run(main)
