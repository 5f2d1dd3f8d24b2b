"""``python -m benchmarks``, with ``tests`` on PYTHONPATH: what ``make bench`` and ``make bench-quick`` run."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import bench, report
from benchmarks.bars import Bar, bars
from benchmarks.database import UnfitServerError
from benchmarks.plan import FULL, QUICK

_CHECKOUT = Path(__file__).parents[1]
_DOCS = _CHECKOUT / "docs"
_QUICK_OUTPUT = _CHECKOUT / ".cache" / "benchmark"

_console = Console(stderr=True, highlight=False)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Two fleets and few rounds, to keep it from rotting.")] = False,
    output: Annotated[Path | None, typer.Option("--output", help="Where the report goes.")] = None,
    fleet: Annotated[
        list[str] | None, typer.Option("--fleet", metavar="RUNSxTIS", help="Only this fleet; repeatable.")
    ] = None,
) -> None:
    """Measure dagbump, stock Airflow and the floors, and write the report.

    With --quick it fails where a bar is broken that holds on any machine: one that counts something, not a timing.
    """
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]  # libpq would heed it
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: clean up
    plan = (QUICK if quick else FULL).only(fleet)
    directory = output or (_QUICK_OUTPUT if quick else _DOCS)
    with _console.status("") as status:
        start = time.monotonic()

        def progress(message: str) -> None:
            elapsed = f"{time.monotonic() - start:6.0f} s  "
            status.update(elapsed + message)
            if not _console.is_terminal:
                _console.print(elapsed + message, soft_wrap=True)

        try:
            results = bench.run(plan, progress)
        except UnfitServerError as error:
            _console.print(f"benchmark: {error}")
            sys.exit(1)
    held = bars(results)
    report.write(results, held, directory)
    _print_bars(held)
    _console.print(f"Written to {os.path.relpath(directory)} in {results.seconds / 60:.1f} minutes.")
    if quick and not all(bar.held for bar in held if bar.robust):
        sys.exit(1)


def _print_bars(held: list[Bar]) -> None:
    for bar in held:
        mark = "[green]held  [/]" if bar.held else "[red]MISSED[/]"
        measured = f"{report.exact(bar.measured)} {bar.unit}".strip()
        _console.print(f"{mark} {bar.promise}, {bar.where}: {measured} (at most {bar.limit:g})", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
