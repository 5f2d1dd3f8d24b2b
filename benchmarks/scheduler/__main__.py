"""``python -m benchmarks.scheduler``, with ``tests`` on PYTHONPATH: what ``make bench-scheduler`` runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.scheduler import report
from benchmarks.scheduler.measuring import FULL, QUICK, measure
from benchmarks.scheduler.results import load


def main(
    quick: Annotated[bool, typer.Option("--quick", help="One small fleet, to keep it from rotting.")] = False,
    report_only: Annotated[bool, typer.Option("--report-only", help="Write the document from the JSON.")] = False,
) -> None:
    """Measure stock Airflow beside Airflow with the plugin, and write the report."""
    console = Console(stderr=True, highlight=False)
    docs = report.DOCUMENT.parent
    directory = docs.parent / ".cache" / "benchmark" if quick else docs
    file = directory / "scheduler-loops.json"
    directory.mkdir(parents=True, exist_ok=True)

    def write() -> None:
        text = report.fill(report.DOCUMENT.read_text(encoding="utf-8"), load(file))
        (directory / report.DOCUMENT.name).write_text(text, encoding="utf-8")

    if report_only:
        write()
        return
    for results in measure(QUICK if quick else FULL, lambda line: console.print(line, soft_wrap=True)):
        file.write_text(json.dumps(asdict(results), indent=1) + "\n", encoding="utf-8")
        write()
    console.print(f"Written to {directory / report.DOCUMENT.name}.", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
