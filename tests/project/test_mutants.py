"""`make mutants`: a clause that is broken is noticed by the test that is about it, and by no other."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.processes import command

pytestmark = pytest.mark.once

OF_IT = "tests/sql/test_bump.py::test_an_empty_bundle_version_does_not_pin[without the index]"
OF_ANOTHER = "tests/sql/test_bump.py::TestArguments::test_an_empty_array_means_no_run[without the index-dag_ids]"


def test_a_broken_clause_is_noticed_by_its_test_and_by_no_other(tmp_path: Path) -> None:
    words = (sys.executable, "-m", "support.sql_mutants", "parts/pinned", "--tree", f"{tmp_path}/tree", "--tests")

    done = command(*words, OF_IT, OF_ANOTHER, PYTHONPATH="tests")

    assert done.returncode == 1, done.stdout + done.stderr  # one survives
    fates = json.loads((tmp_path / "tree.json").read_text("utf-8"))["fates"]
    turned, unwrapped = sorted(fates, key=lambda name: "<> -> =" not in name)
    assert "<> -> =" in turned
    assert unwrapped.endswith("coalesce(run.bundle_version::text, '') -> run.bundle_version::text")
    assert fates == {turned: OF_IT, unwrapped: "survives"}
    assert f"survives: sql/{unwrapped.replace(' | ', ':3: ')}" in done.stdout
