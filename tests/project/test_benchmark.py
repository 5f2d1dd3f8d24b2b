"""The benchmark's papers, which hold together without measuring anything, and the copies in its fleets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagbump
import psycopg
import pytest
from support import proof
from support.fleet import Fleet
from support.processes import CHECKOUT
from support.releases import environments

from benchmarks import documents, figures
from benchmarks.plan import LOOP_RUNS, QUICK

pytestmark = pytest.mark.once

DOCS = CHECKOUT / "docs"


@pytest.mark.parametrize("document", documents.with_blocks(), ids=lambda path: path.stem)
def test_the_documents_say_what_the_figures_say(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert documents.fill(text, figures.load(DOCS)) == text


def test_every_block_says_where_its_figures_come_from() -> None:
    sources = [
        source
        for document in documents.with_blocks()
        for source in re.findall(r"<!-- generated: .+ -->\n\n(.*)\n", document.read_text(encoding="utf-8"))
    ]
    assert len(sources) > 10
    known = re.compile(r"`make (bench|coverage|mutants|pairs|prove).*`, \d{4}-\d\d-\d\d, commit .+:")
    assert [source for source in sources if not known.fullmatch(source)] == []


@pytest.mark.parametrize("program", sorted(figures.load(DOCS).keys() - {"proof"}))
def test_what_is_kept_in_a_file_is_all_that_was_measured(program: str, tmp_path: Path) -> None:
    kept = figures.load(DOCS)[program]
    figures.save(program, kept, tmp_path)
    assert figures.load(tmp_path) == {program: kept}


def test_a_block_that_the_program_does_not_know_is_an_error() -> None:
    with pytest.raises(KeyError, match="hopes"):
        documents.fill("<!-- generated: loops/hopes -->\n<!-- end -->\n", figures.load(DOCS))


def test_a_block_whose_figures_are_not_there_stays_as_it_is() -> None:
    block = "<!-- generated: loops/machine -->\nas it was\n<!-- end -->\n"
    assert documents.fill(block, {}) == block


def test_every_proof_that_is_kept_stands_in_a_document() -> None:
    text = "".join(document.read_text(encoding="utf-8") for document in documents.with_blocks())
    kept = figures.load(DOCS).get("proof", {})
    assert [title for title in kept if f"<!-- generated: proof/{title} -->" not in text] == []


def test_a_proof_is_kept_beside_the_others_and_shown_with_its_source(
    tmp_path: Path,
) -> None:
    for title, count in (("Kills", 1), ("Waits", 0), ("Kills", 200)):
        proof.keep(title, figures.Proof("make prove", "abc", "2026-11-28", {"tried": count}), tmp_path)
    kept = figures.load(tmp_path)
    assert list(kept["proof"]) == ["Kills", "Waits"]
    shown = documents.fill("<!-- generated: proof/Kills -->\n<!-- end -->\n", kept)
    assert "`make prove`, 2026-11-28, commit abc:" in shown
    assert "| tried | 200 |" in shown


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


@pytest.mark.airflow
@pytest.mark.slow
@pytest.mark.skipif(environments.release() != environments.DEFAULT_RELEASE, reason="it measures one release")
def test_the_scale_is_measured_in_small() -> None:
    words = (sys.executable, "-m", "benchmarks", "scale", "--quick")
    subprocess.run(words, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": "tests"}, check=True)
    tables = figures.load(CHECKOUT / ".cache" / "benchmark" / "docs")["scale"].tables
    moved = [row["TIs moved"] for row in tables["warm"]]
    assert moved == [12, 12 * LOOP_RUNS, 12 * QUICK.large.runs] * 2
    assert len(tables["cold"]) == len(moved)
    (version_per_second,) = tables["version per second"]
    assert version_per_second["versions"] == QUICK.versions_seconds
    examined = {(row["loop"], row["who"]): row["runs examined/s"] for row in tables["schedulers"]}
    assert len(examined) == 4
    assert min(examined.values()) > 0
