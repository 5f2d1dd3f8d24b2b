"""dagbump.bump, case by case: every row of the contract's words, in a live database."""

from __future__ import annotations

from typing import Any

import dagbump
import psycopg
from support.fleet import Fleet


def test_moves_unfinished_tis_of_a_verified_run_and_nothing_else(
    fleet: Fleet, connection: psycopg.Connection[Any]
) -> None:
    old, new = fleet.dag("d", versions=2)
    run = fleet.run("d")
    fleet.ti(run, new, "success")
    states = [None, "scheduled", "queued", "running", "up_for_retry", "deferred", "restarting", "a_state_of_airflow_4"]
    stale = fleet.tis(run, old, states)
    finished = fleet.tis(run, old, ["success", "failed", "skipped", "upstream_failed", "removed"])

    result = dagbump.bump(connection)
    connection.commit()

    assert [(row.bumped, row.locked, row.needs_verify) for row in result.runs] == [(len(states), 0, False)]
    assert fleet.versions_of(stale) == [new] * len(states)
    assert fleet.versions_of(finished) == [old] * 5
