"""Keeps the counts of tests for docs/reliability.md. `make prove` runs these tests in their long form."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from benchmarks import figures
from benchmarks.figures import Figure, Figures, Proof
from support.processes import CHECKOUT

LONG = os.environ.get("DAGBUMP_LONG") == "1"


def record(title: str, command: str, counted: Mapping[str, Figure | Mapping[str, Figure]]) -> None:
    """Print what was counted. Where DAGBUMP_RECORD is set, keep it in docs/proof.json, for the block of that title.

    Args:
        title: the name of the proof. The block `proof/TITLE` of a document shows it.
        command: the command that counts them.
        counted: figures by what they count, in the order in which they are shown. For a table of more columns, each is
            a mapping by column.
    """
    figures_: Figures = {what: dict(row) if isinstance(row, Mapping) else row for what, row in counted.items()}
    lines = [title, *(f"    {what}: {figure}" for what, figure in figures_.items())]
    print("\n".join(lines), file=sys.__stderr__)  # pytest shows nothing else of a test that passes
    if os.environ.get("DAGBUMP_RECORD"):
        proof = Proof(command, _commit(), f"{datetime.now(timezone.utc):%Y-%m-%d}", figures_)
        keep(title, proof, CHECKOUT / "docs")


def keep(title: str, proof: Proof, directory: Path) -> None:
    """Replace one title; other workers wait. Figures that other tests counted for it at this commit stay."""
    with Path(__file__).open() as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        proofs = figures.load(directory).get("proof", {})
        before = proofs.get(title)
        if before and before.commit == proof.commit:
            proof = replace(proof, figures=_merged(before.figures, proof.figures))
        figures.save("proof", {**proofs, title: proof}, directory)


def counted(title: str) -> Figures:
    """Return what has been counted for a title at this commit."""
    kept = figures.load(CHECKOUT / "docs").get("proof", {}).get(title)
    return kept.figures if kept and kept.commit == _commit() else {}


def is_changed() -> bool:
    """Return whether the checkout has changes that are in no commit; results in docs/ are none."""
    return bool(_git("status", "--porcelain", "--untracked-files=no", "--", ":!docs"))


def _merged(before: Figures, figures: Figures) -> Figures:
    """Add figures to others; a row with columns keeps those that only it has."""
    merged = before | figures
    for what, row in figures.items():
        old = before.get(what)
        if isinstance(row, dict) and isinstance(old, dict):
            merged[what] = old | row
    return merged


def _commit() -> str:
    return _git("rev-parse", "--short=9", "HEAD")


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
