"""``python -m benchmarks PROGRAM``, with ``tests`` on PYTHONPATH: what ``make bench`` and its like run."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from support.processes import CHECKOUT

from benchmarks import bench, loops, page, repair, report, results, scheduler
from benchmarks.plan import FULL, QUICK
from benchmarks.thresholds import thresholds

_PROGRAMS: dict[str, Any] = {"loops": loops, "scheduler": scheduler, "page": page, "repair": repair}

_console = Console(stderr=True, highlight=False)


def main(
    program: Annotated[
        Literal["loops", "scheduler", "page", "repair"], typer.Argument(help="What to measure.")
    ] = "loops",
    quick: Annotated[bool, typer.Option("--quick", help="Small fleets, few rounds, into .cache/benchmark.")] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Measure nothing: write documents and plots from all JSON files.")
    ] = False,
) -> None:
    """Measure, keep the figures in a JSON file, and write them into the documents.

    With --quick it fails where a threshold is missed that holds on any machine: one that counts something, not a
    timing.
    """
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]  # libpq would heed it
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: clean up
    root = CHECKOUT / ".cache" / "benchmark" if quick else CHECKOUT
    (root / "docs").mkdir(parents=True, exist_ok=True)
    if not report_only:
        results.save(program, _measure(program, quick=quick), root / "docs")
    measured = results.load(root / "docs")
    report.write(measured, root)
    held = list(thresholds(measured[program]))
    for each in held:
        _console.print(f"{'held' if each.held else 'MISSED'}: {each}", markup=False, soft_wrap=True)
    _console.print(f"Written to {os.path.relpath(root)}.")
    if quick and not all(each.held for each in held if each.robust):
        sys.exit(1)


def _measure(program: str, *, quick: bool) -> Any:
    start = time.monotonic()

    def say(message: str) -> None:
        _console.print(f"{time.monotonic() - start:6.0f} s  {message}", soft_wrap=True)

    module = _PROGRAMS[program]
    with bench.start(QUICK if quick else FULL, module.RELEASES, module.SETTINGS, say) as where:
        return module.measure(where)


if __name__ == "__main__":
    typer.run(main)
