"""The copies that the benchmark's fleets are made of."""

from __future__ import annotations

from typing import Any

import dagbump
import psycopg
import pytest
from support.fleet import Fleet

pytestmark = pytest.mark.once


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
