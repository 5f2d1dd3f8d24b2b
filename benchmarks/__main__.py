"""``python -m benchmarks PROGRAM``, with ``tests`` on PYTHONPATH: the `make bench…` commands."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from support.processes import CHECKOUT

from benchmarks import bench, documents, figures, loops, on_disk, page, repair, scale, scheduler
from benchmarks.plan import QUICK, Plan
from benchmarks.thresholds import thresholds

_PROGRAMS: dict[str, Any] = {"loops": loops, "scheduler": scheduler, "page": page, "repair": repair, "scale": scale}

_console = Console(stderr=True, highlight=False)


def main(
    program: Annotated[
        Literal["loops", "scheduler", "page", "repair", "scale"], typer.Argument(help="What to measure.")
    ] = "loops",
    quick: Annotated[bool, typer.Option("--quick", help="Small fleets, few rounds, into .cache/benchmark.")] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Do not measure; write documents and plots from the JSON files.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="scale: keep the large database in this directory, and use what is there.")
    ] = None,
) -> None:
    """Measure, keep the results in a JSON file, and write all results into the documents.

    With --quick it fails if a count misses its threshold. Times may miss theirs.
    """
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]  # libpq would use it
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up, as Ctrl-C does
    root = CHECKOUT / ".cache" / "benchmark" if quick else CHECKOUT
    (root / "docs").mkdir(parents=True, exist_ok=True)
    if not report_only:
        plan, module, start = QUICK if quick else Plan(), _PROGRAMS[program], time.monotonic()

        def say(message: str) -> None:
            _console.print(f"{time.monotonic() - start:6.0f} s  {message}", soft_wrap=True)

        own = on_disk.running(data, module.SETTINGS) if program == "scale" else None
        with bench.start(plan, module.RELEASES, module.SETTINGS, say, own) as where:
            figures.save(program, module.measure(where), root / "docs")
    measured = figures.load(root / "docs")
    documents.write(measured, root)
    missed = [each for each in thresholds(measured.get(program)) if not each.held]
    for each in missed:
        _console.print(f"missed: {each}", markup=False, soft_wrap=True)
    _console.print(f"Written below {root}.")
    if quick and any(each.robust for each in missed):
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
