"""The contract's rules for bump, preview and verify_scope in plain Python.

tests/sql/test_properties.py holds them against what the database answers.

It is written to be read: no SQL, no thought of speed. First come the things, then the rules. `bump` moves the
TIs that it is given, so that a second call sees what the first has done. Times are hours from now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from dagbump import RunBump, RunPreview
from dagbump.results import RunScope

from support.releases import environments


class Call(NamedTuple):
    """The arguments of `dagbump.bump` and, without the last, `dagbump.preview`, in their order."""

    dag_run_ids: list[int] | None
    dag_ids: list[str] | None
    max_runs: int | None
    caller_verifies: bool
    report_all: bool = False


class Task(NamedTuple):
    task_id: str
    start_date: int | None
    end_date: int | None
    mapped: bool


@dataclass
class Version:
    id: UUID
    number: int
    created_at: int
    serialized: bool
    tasks: list[Task] | None  # None: they cannot be read


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
    task_id: str
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
    run_type: str
    logical_date: int | None
    own_version: UUID | None  # that it was created with, as far as that is known
    tis: list[Ti]


FINISHED = ("success", "failed", "skipped", "upstream_failed", "removed")


def latest(run: Run) -> Version | None:
    return max(run.dag.versions, key=lambda version: version.number, default=None)


def stale(run: Run) -> list[Ti]:
    """Past tries are never stale, whatever their state is."""
    new = latest(run)
    return [ti for ti in run.tis if ti.state not in FINISHED and (new is None or ti.version != new.id)]


def wrong(run: Run) -> list[Ti]:
    """The stale TIs, without those of a pinned run that are on the run's own version."""
    return [ti for ti in stale(run) if not (run.bundle_version and ti.version and ti.version == run.own_version)]


def versionless(run: Run) -> list[Ti]:
    return [ti for ti in run.tis if ti.state not in FINISHED and ti.version is None]


def unverified(run: Run) -> bool:
    new = latest(run)
    tries = [version for ti in run.tis for version in (ti.version, *(past.version for past in ti.past_tries))]
    return new is not None and new.id not in tries


def left_to_airflow(run: Run, call: Call) -> bool:
    """Whether the safe form leaves it alone.

    Up to 3.2, the latest version for Airflow has the newest created_at. Where that is another one, it moves TIs back.
    """
    new = latest(run)
    newer = [version for version in run.dag.versions if new and version.created_at >= new.created_at and version != new]
    moved_back = environments.number() < (3, 3) and bool(newer) and bool(stale(run))
    return not call.caller_verifies and (unverified(run) or moved_back)


def version_of(run: Run) -> Version | None:
    """The version that Airflow runs it with: the latest, but a pinned run keeps to its own."""
    own = next((version for version in run.dag.versions if version.id == run.own_version), None)
    return (own if run.bundle_version else None) or latest(run)


def due(task: Task, run: Run) -> bool:
    """Whether verify_integrity makes a TI of a task."""
    if run.run_type == "backfill" or run.logical_date is None:
        return True
    return (task.start_date is None or task.start_date <= run.logical_date) and (
        task.end_date is None or run.logical_date <= task.end_date
    )


def scope(run: Run, version: Version | None) -> RunScope:
    if version is None or not version.serialized or version.tasks is None:
        return RunScope(run.id, None, None, None, None)
    in_version = {task.task_id for task in version.tasks}
    created = {task.task_id for task in version.tasks if due(task, run)} - {ti.task_id for ti in run.tis}
    removed = {ti.task_id for ti in run.tis if ti.state == "removed"}
    live = {ti.task_id for ti in run.tis if ti.state != "removed"}
    unfinished = {ti.task_id for ti in run.tis if ti.state not in FINISHED}
    return RunScope(
        run.id,
        missing_tasks=tuple(sorted(created | (in_version & removed - live))),
        restored_tasks=tuple(sorted(in_version & removed)),
        vanished_tasks=tuple(sorted(unfinished - in_version)),
        # From 3.4 on, a TI with an index counts too; here, each has one.
        has_mapped=any(task.mapped for task in version.tasks) or (environments.number() >= (3, 4) and bool(run.tis)),
    )


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
    """The running runs that a call names: the examined ones in order, and the others."""
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
        verified = not needs_verify
        assert new is not None  # or the run would not be examined
        if left_to_airflow(run, call):
            moving, needs_verify = [], True
        elif new.id in held:
            moving, locked, needs_verify = [], len(moving), False
        else:
            locked = sum(ti.id in held for ti in moving)
            moving = [ti for ti in moving if ti.id not in held]
        for ti in moving:
            ti.version = new.id
        if moving or locked or needs_verify or (call.report_all and verified):
            key = (run.id, run.dag.dag_id, run.run_id, new.id, new.number)
            rows.append(RunBump(*key, len(moving), locked, needs_verify))
    return tuple(rows)


def verdict(run: Run, call: Call) -> str:
    if found := obstacle(run):
        return "versionless" if found == "pinned" and versionless(run) else found
    if unverified(run) or left_to_airflow(run, call):
        return "bump" if call.caller_verifies and stale(run) else "needs_verify"
    return "missing_tasks" if scope(run, version_of(run)).missing_tasks else "bump"


def preview(runs: list[Run], call: Call) -> tuple[RunPreview, ...]:
    rows = []
    examined, others = running(runs, call)
    for run in examined + others:
        new, old, found = latest(run), wrong(run), scope(run, version_of(run))
        if not (old or found.missing_tasks or (not obstacle(run) and unverified(run))):
            continue
        key = (run.id, run.dag.dag_id, run.run_id, new.id if new else None, new.number if new else None)
        by_state = Counter("no_status" if ti.state is None else ti.state for ti in old)
        tasks = (found.missing_tasks, found.vanished_tasks)
        rows.append(RunPreview(*key, len(old), dict(by_state), verdict(run, call), len(versionless(run)), *tasks))
    return tuple(rows)


def verify_scope(runs: list[Run], dag_run_ids: Collection[int]) -> tuple[RunScope, ...]:
    asked = [run for run in runs if run.state == "running" and run.id in dag_run_ids]
    return tuple(scope(run, latest(run)) for run in sorted(asked, key=lambda run: run.id))
