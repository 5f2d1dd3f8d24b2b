"""The benchmark's papers, which hold together without measuring anything, and the copies in its fleets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagbump
import psycopg
import pytest
from support.fleet import Fleet

from benchmarks import report, results
from benchmarks.thresholds import thresholds

pytestmark = pytest.mark.once

FIGURES = report.DOCUMENT.with_name("benchmark.json")


def test_the_document_says_what_the_figures_say() -> None:
    measured = results.load(FIGURES)
    document = report.DOCUMENT.read_text(encoding="utf-8")
    assert report.fill(document, measured, thresholds(measured)) == document


def test_what_is_kept_in_the_file_is_all_that_was_measured(tmp_path: Path) -> None:
    kept = json.loads(FIGURES.read_text(encoding="utf-8"))
    again = tmp_path / "benchmark.json"
    results.save(results.load(FIGURES), {"thresholds": kept["thresholds"]}, again)
    assert again.read_text(encoding="utf-8") == FIGURES.read_text(encoding="utf-8")


def test_a_block_that_the_program_does_not_know_is_an_error() -> None:
    measured = results.load(FIGURES)
    with pytest.raises(KeyError, match="hopes"):
        report.fill("<!-- generated: hopes -->\n<!-- end -->\n", measured, thresholds(measured))


def test_copies_of_a_run_and_of_a_version_are_bumped_as_the_originals(
    fleet: Fleet, connection: psycopg.Connection[Any]
) -> None:
    (old,) = fleet.dag("d", versions=1)
    run = fleet.run("d")
    fleet.tis(run, old, ["success", "scheduled", None])
    fleet.copy_run(run, 4)
    new = fleet.copy_latest_version("d")
    result = dagbump.bump(connection, caller_verifies=True)
    assert [(row.dag_version_id, row.version_number, row.bumped) for row in result.runs] == [(new, 2, 2)] * 5
