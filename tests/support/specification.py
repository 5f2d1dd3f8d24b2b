"""The contract's rules for bump and preview in plain Python: what tests/test_properties.py holds the database against.

To be read as a specification: no SQL, no thought of speed. First what there is, then the rules. `bump` moves the
TIs that it is given, so that a second call sees what the first has done. Times are hours from now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from dagbump import RunBump, RunPreview

from support.releases import environments


class Call(NamedTuple):
    """The arguments of `dagbump.bump` and `dagbump.preview`, in their order."""

    dag_run_ids: list[int] | None
    dag_ids: list[str] | None
    max_runs: int | None
    caller_verifies: bool


@dataclass
class Version:
    id: UUID
    number: int
    created_at: int
    serialized: bool


@dataclass
class Dag:
    dag_id: str
    paused: bool | None
    stale: bool | None
    versions: list[Version]


@dataclass
class PastTry:
    """Up to Airflow 3.3 a row of TI history; from 3.4 on an archived task instance, which may be unfinished."""

    version: UUID | None
    state: str | None


@dataclass
class Ti:
    id: UUID
    mapped: bool
    state: str | None
    version: UUID | None
    past_tries: list[PastTry]


@dataclass
class Run:
    id: int
    dag: Dag
    run_id: str
    state: str
    bundle_version: str | None
    run_after: int
    last_scheduling_decision: int | None
    sort_ordinals: list[int]  # one for each backfill that it is part of
    tis: list[Ti]


FINISHED = ("success", "failed", "skipped", "upstream_failed", "removed")


def latest(run: Run) -> Version | None:
    return max(run.dag.versions, key=lambda version: version.number, default=None)


def stale(run: Run) -> list[Ti]:
    """Past tries are never stale, in whatever state they were left."""
    new = latest(run)
    return [ti for ti in run.tis if ti.state not in FINISHED and (new is None or ti.version != new.id)]


def unverified(run: Run) -> bool:
    new = latest(run)
    tries = [version for ti in run.tis for version in (ti.version, *(past.version for past in ti.past_tries))]
    return new is not None and new.id not in tries


def obstacle(run: Run) -> str | None:
    """What keeps a running run from being examined: the first that applies."""
    new = latest(run)
    obstacles = {
        "pinned": bool(run.bundle_version),
        "paused": run.dag.paused is not False,
        "stale_dag": run.dag.stale is not False,
        "not_due": run.run_after > 0,
        "no_version": new is None,
        "no_serialized_dag": new is not None and not new.serialized,
    }
    return next((name for name, applies in obstacles.items() if applies), None)


def place(run: Run, call: Call) -> tuple[object, ...]:
    """Airflow's own order, NULLS FIRST. Where no limit hangs on it, the backfills' order is not looked up.

    From Airflow 3.4 on a backfill has none.
    """
    in_backfill = call.max_runs is not None and environments.number() < (3, 4)
    ordinal = min(run.sort_ordinals, default=None) if in_backfill else None
    decision = run.last_scheduling_decision
    return ordinal is not None, ordinal, decision is not None, decision, run.run_after, run.id


def running(runs: list[Run], call: Call) -> tuple[list[Run], list[Run]]:
    """The running runs that a call is about: the examined ones in order, and the others."""
    asked = [run for run in runs if run.state == "running"]
    asked = [run for run in asked if call.dag_run_ids is None or run.id in call.dag_run_ids]
    asked = [run for run in asked if call.dag_ids is None or run.dag.dag_id in call.dag_ids]
    free = sorted((run for run in asked if not obstacle(run)), key=lambda run: place(run, call))
    return free[: call.max_runs], [run for run in asked if obstacle(run)]


def bump(runs: list[Run], call: Call, held: Collection[UUID] = ()) -> tuple[RunBump, ...]:
    """Move TIs and answer; `held`: the TIs and versions that another transaction has locked."""
    rows = []
    for run in running(runs, call)[0]:
        new, moving, locked, needs_verify = latest(run), stale(run), 0, unverified(run)
        assert new is not None  # or the run would not be examined
        if needs_verify and not call.caller_verifies:
            moving = []
        elif new.id in held:
            moving, locked, needs_verify = [], len(moving), False
        else:
            locked = sum(ti.id in held for ti in moving)
            moving = [ti for ti in moving if ti.id not in held]
        for ti in moving:
            ti.version = new.id
        rows.append(RunBump(run.id, run.dag.dag_id, run.run_id, new.id, new.number, len(moving), locked, needs_verify))
    return tuple(row for row in rows if row.bumped or row.locked or row.needs_verify)


def preview(runs: list[Run], call: Call) -> tuple[RunPreview, ...]:
    rows = []
    examined, others = running(runs, call)
    for run in examined + others:
        new, old = latest(run), stale(run)
        would_move = not unverified(run) or (call.caller_verifies and old)
        verdict = obstacle(run) or ("bump" if would_move else "needs_verify")
        key = (run.id, run.dag.dag_id, run.run_id, new.id if new else None, new.number if new else None)
        by_state = Counter("no_status" if ti.state is None else ti.state for ti in old)
        if old or verdict == "needs_verify":
            rows.append(RunPreview(*key, len(old), dict(by_state), verdict))
    return tuple(rows)
