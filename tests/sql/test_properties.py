"""dagbump.bump, preview and verify_scope on random fleets in a live database, against support/specification.py.

50 fleets for each property by default; `DAGBUMP_EXAMPLES=5000 pytest tests/sql/test_properties.py` tries more. A
failure prints the smallest fleet that shows it, and .hypothesis remembers it for the next run. Where CI is set,
Hypothesis tries the same fleets every time (its own profile "ci").
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from itertools import count
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import dagbump
import psycopg
import pytest
from dagbump import client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Json
from support import server, specification
from support.fleet import FILLERS, TIMESTAMPS, as_stored, columns_of
from support.optional_index import build_optional_index
from support.releases import environments
from support.server import Server
from support.specification import Call, Dag, PastTry, Run, Task, Ti, Version

pytestmark = [pytest.mark.server, pytest.mark.tables]

T = TypeVar("T")
Row = dict[str, Any]

BACKFILL: Row = {"is_paused": False, "dag_run_conf": Json({}), "reprocess_behavior": "none", "max_active_runs": 1}

properties = settings(
    max_examples=int(os.environ.get("DAGBUMP_EXAMPLES") or 50),
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)

# ---- Random fleets ----

# Ids that meet where two are put together ("a" + "bc", "ab" + "c"), that differ in case only, that match one another
# as patterns, or that need quoting in SQL or in an array.
DAG_IDS = st.sampled_from(["a", "ab", "A", "%", '{"é", NULL\\'])
RUN_IDS = st.sampled_from(["c", "bc", "it's"])
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
UNFINISHED = [None, "scheduled", "queued", "running", "up_for_retry", "a_state_of_4", "Success", "no_status"]
STATES = st.sampled_from([*UNFINISHED, *specification.FINISHED])
NOT_FALSE = [True, None] if environments.number() < (3, 2) else [True]  # NOT NULL from 3.2 on

TASK_IDS = st.sampled_from(["a", "b", "B", "b'\"é", "a.b"])

PAST_HOURS = st.integers(-2, 0)
HOURS = st.none() | st.integers(-2, 2)


def mostly(usual: st.SearchStrategy[T], other: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    # Not usual | usual | usual | other: Hypothesis would take the first three for one.
    return st.sampled_from([False, False, False, True]).flatmap(lambda rare: other if rare else usual)


def usual_unless(odd: bool, usual: list[T], others: list[T]) -> st.SearchStrategy[T]:
    """Draw usual values for every second DAG and run. If all of them had odd values, hardly any run would be
    examined.
    """
    return mostly(st.sampled_from(usual), st.sampled_from(others)) if odd else st.sampled_from(usual)


@st.composite
def dags(draw: st.DrawFn, dag_id: str, ids: Iterator[int]) -> Dag:
    odd = draw(st.booleans())
    numbers = draw(st.lists(st.integers(1, 9), min_size=0 if odd else 1, max_size=3, unique=True))
    return Dag(
        dag_id,
        paused=draw(usual_unless(odd, [False], NOT_FALSE)),
        stale=draw(usual_unless(odd, [False], NOT_FALSE)),
        # Neither the ids nor created_at follow version_number.
        versions=[
            Version(
                UUID(int=next(ids)),
                number,
                draw(PAST_HOURS),
                draw(usual_unless(odd, [True], [False])),
                draw(st.lists(tasks(), max_size=4, unique_by=lambda task: task.task_id) | st.none()),
            )
            for number in numbers
        ],
    )


def tasks() -> st.SearchStrategy[Task]:
    return st.builds(Task, TASK_IDS, mostly(st.none(), HOURS), mostly(st.none(), HOURS), st.booleans())


@st.composite
def tis(draw: st.DrawFn, dag: Dag, ids: Iterator[int]) -> Ti:
    versions = st.sampled_from([None, *(version.id for version in dag.versions)])
    return Ti(
        UUID(int=next(ids)),
        task_id=draw(TASK_IDS),
        state=draw(STATES),
        version=draw(versions),
        past_tries=draw(st.lists(st.builds(PastTry, version=versions, state=STATES), max_size=2)),
    )


@st.composite
def runs(draw: st.DrawFn, dag: Dag, run_id: str, ids: Iterator[int]) -> Run:
    odd = draw(st.booleans())
    return Run(
        next(ids),
        dag,
        run_id,
        state=draw(usual_unless(odd, ["running"], ["queued", "success", "failed"])),
        bundle_version=draw(usual_unless(odd, [None, ""], ["abc"])),
        run_after=draw(usual_unless(odd, [0, -1, -2], [1])),
        last_scheduling_decision=draw(st.none() | PAST_HOURS),
        sort_ordinals=draw(st.lists(st.integers(1, 3), max_size=2)),
        run_type=draw(st.sampled_from(["manual", "scheduled", "backfill"])),
        logical_date=draw(HOURS),
        own_version=draw(st.sampled_from([None, *(version.id for version in dag.versions)])),
        tis=[draw(tis(dag, ids)) for _ in range(draw(st.integers(0, 5)))],
    )


@st.composite
def fleets(draw: st.DrawFn) -> list[Run]:
    ids = count(1)
    dag_ids = draw(st.lists(mostly(DAG_IDS, TEXTS), min_size=2, max_size=4, unique=True))
    its_dags = st.sampled_from([draw(dags(dag_id, ids)) for dag_id in dag_ids])
    run_ids = mostly(RUN_IDS, TEXTS)
    # A coin for each of 12 runs makes fleets large enough to find something; what fails still shrinks to few.
    drawn = [draw(runs(draw(its_dags), draw(run_ids), ids)) for _ in range(12) if draw(st.booleans())]
    distinct = {(run.dag.dag_id, run.run_id): run for run in drawn}.values()
    # A logical date is unique in a DAG. Any number of runs may have none.
    by_date = {(run.dag.dag_id, run.run_id if run.logical_date is None else run.logical_date): run for run in distinct}
    return list(by_date.values())


@st.composite
def fleets_and_calls(draw: st.DrawFn) -> tuple[list[Run], Call]:
    fleet = draw(fleets())
    return fleet, draw(calls(fleet))


def calls(fleet: list[Run]) -> st.SearchStrategy[Call]:
    run_ids = [*(run.id for run in fleet), 0, 2**40]
    dag_ids = [*{run.dag.dag_id: None for run in fleet}, "unknown"]
    return st.builds(
        Call,
        dag_run_ids=mostly(st.none(), st.lists(st.sampled_from(run_ids), max_size=2 * len(run_ids))),
        dag_ids=mostly(st.none(), st.lists(st.sampled_from(dag_ids), max_size=2 * len(dag_ids))),
        max_runs=st.none() | st.integers(0, 4),
        caller_verifies=st.booleans(),
        report_all=st.booleans(),
    )


@st.composite
def subsets(draw: st.DrawFn, ids: Iterable[UUID]) -> set[UUID]:
    return {one for one in ids if draw(st.booleans())}


class Hold(NamedTuple):
    """What another transaction has locked, and how."""

    tis: set[UUID]
    versions: set[UUID]
    strength: str

    @property
    def in_the_way(self) -> set[UUID]:
        """Return the rows that a bump cannot lock. It takes NO KEY UPDATE on a TI, and KEY SHARE on a version."""
        conflicting_tis = set() if self.strength == "KEY SHARE" else self.tis
        conflicting_versions = self.versions if self.strength == "UPDATE" else set()
        return conflicting_tis | conflicting_versions


@st.composite
def fleets_calls_and_holds(draw: st.DrawFn) -> tuple[list[Run], Call, Hold]:
    fleet, call = draw(fleets_and_calls())
    hold = Hold(
        tis=draw(subsets({ti.id for run in fleet for ti in run.tis})),
        versions=draw(subsets({version.id for run in fleet for version in run.dag.versions})),
        strength=draw(st.just("UPDATE") | st.sampled_from(["NO KEY UPDATE", "SHARE", "KEY SHARE"])),
    )
    return fleet, call, hold


# ---- in a live database ----


def rows_of(fleet: list[Run], now: datetime) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a fleet, each with its table, in an order in which they can be inserted."""
    for dag in {run.dag.dag_id: run.dag for run in fleet}.values():
        yield from rows_of_dag(dag, now)
    for run in fleet:
        for backfill in backfills_of(run):
            yield row("backfill", id=backfill, dag_id=run.dag.dag_id, from_date=now, to_date=now, **BACKFILL)
    for run in fleet:
        yield from rows_of_run(run, now)
        for position, ti in enumerate(run.tis):
            yield from rows_of_ti(run, position, ti, now)


def rows_of_dag(dag: Dag, now: datetime) -> Iterator[tuple[str, Row]]:
    yield row("dag", dag_id=dag.dag_id, is_paused=dag.paused, is_stale=dag.stale)
    for version in dag.versions:
        key = {"id": version.id, "dag_id": dag.dag_id}
        yield row("dag_version", **key, version_number=version.number, created_at=at(now, version.created_at))
        if version.serialized:
            yield row("serialized_dag", **key, dag_version_id=version.id, data=Json(serialized(version, now)))


def serialized(version: Version, now: datetime) -> object:
    """Return the part of Airflow's serialized DAG that lists the tasks."""
    if version.tasks is None:
        return None  # as where Airflow compresses it
    return {"__version": 3, "dag": {"tasks": [serialized_task(task, now) for task in version.tasks]}}


def serialized_task(task: Task, now: datetime) -> object:
    dates = {"start_date": at(now, task.start_date), "end_date": at(now, task.end_date)}
    given = {name: date.timestamp() for name, date in dates.items() if date}
    mapped = {"_is_mapped": True} if task.mapped else {}
    return {"__type": "operator", "__var": {"task_id": task.task_id, **given, **mapped}}


def backfills_of(run: Run) -> list[int]:
    return [10 * run.id + number for number in range(len(run.sort_ordinals))]


def rows_of_run(run: Run, now: datetime) -> Iterator[tuple[str, Row]]:
    backfills = backfills_of(run)
    yield row(
        "dag_run",
        id=run.id,
        dag_id=run.dag.dag_id,
        run_id=run.run_id,
        state=run.state,
        bundle_version=run.bundle_version,
        run_after=at(now, run.run_after),
        last_scheduling_decision=at(now, run.last_scheduling_decision),
        run_type=run.run_type,
        logical_date=at(now, run.logical_date),
        created_dag_version_id=run.own_version,
        backfill_id=backfills[-1] if backfills else None,  # as Airflow has it: the last that took the run up
    )
    for backfill, ordinal in zip(backfills, run.sort_ordinals, strict=True):
        yield row("backfill_dag_run", backfill_id=backfill, dag_run_id=run.id, logical_date=now, sort_ordinal=ordinal)


def rows_of_ti(run: Run, position: int, ti: Ti, now: datetime) -> Iterator[tuple[str, Row]]:
    key = {"dag_id": run.dag.dag_id, "run_id": run.run_id, "task_id": ti.task_id, "map_index": position}
    yield row("task_instance", **key, id=ti.id, state=ti.state, dag_version_id=ti.version, updated_at=at(now, -1))
    for number, past in enumerate(ti.past_tries, start=1):
        past_id = UUID(int=(ti.id.int << 64) + number)
        values = {"dag_version_id": past.version, "state": past.state, "try_number": number}
        yield row("task_instance_history", **key, task_instance_id=past_id, **values)


def row(table: str, **values: Any) -> tuple[str, Row]:
    return table, {**FILLERS.get(table, {}), **values}


def at(now: datetime, hours: int | None) -> datetime | None:
    return None if hours is None else now + timedelta(hours=hours)


class Snapshot(NamedTuple):
    """Airflow's rows with their physical addresses, which every write changes, even one of equal values."""

    tis: dict[UUID, Row]
    other_rows: set[tuple[str, ...]]


class LiveDatabase:
    """A database in which an example finds the fleet that it has put there, and no other."""

    def __init__(self, url: str) -> None:
        # Nothing that is held comes free while a bump runs: any timeout tells whether it waits.
        self.connection = psycopg.connect(url, autocommit=True, options="-c lock_timeout=5s")
        self.other_connection = psycopg.connect(url)
        self.connection.execute("INSERT INTO dag_bundle (name) VALUES ('fleet')")
        self._columns = columns_of(self.connection)
        self._all_other_rows = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {}, ctid::text, to_jsonb(row)::text FROM {} AS row").format(table, sql.Identifier(table))
            for table in self._columns
            if table != "task_instance"
        )

    def close(self) -> None:
        self.other_connection.close()
        self.connection.close()

    @contextmanager
    def uncommitted(self, fleet: list[Run]) -> Iterator[None]:
        """Put a fleet into a transaction that is rolled back at the end: the quickest way to forget it."""
        with self.connection.transaction(force_rollback=True):
            self._put(fleet)
            yield

    @contextmanager
    def committed(self, fleet: list[Run]) -> Iterator[None]:
        """Put a fleet where another transaction can lock it."""
        with self.connection.transaction():
            self._put(fleet)
        try:
            yield
        finally:
            for table in ("dag_run", "backfill", "dag"):  # the other tables follow ON DELETE CASCADE
                self.connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))

    @contextmanager
    def held(self, hold: Hold) -> Iterator[None]:
        """Hold rows in another transaction: what the hold names, and all those of which a bump needs no lock."""
        with self.other_connection.transaction(force_rollback=True):
            for table, ids in (("task_instance", hold.tis), ("dag_version", hold.versions)):
                statement = sql.SQL("SELECT FROM {} WHERE id = ANY (%s) FOR {}")
                self.other_connection.execute(
                    statement.format(sql.Identifier(table), sql.SQL(hold.strength)), [list(ids)]
                )
            for table in ("dag", "dag_run", "serialized_dag"):
                self.other_connection.execute(sql.SQL("SELECT FROM {} FOR UPDATE").format(sql.Identifier(table)))
            if "task_instance_history" in self._columns:
                self.other_connection.execute("SELECT FROM task_instance_history FOR UPDATE")
            else:
                self.other_connection.execute("SELECT FROM task_instance WHERE working_set IS NULL FOR UPDATE")
            yield

    def snapshot(self) -> Snapshot:
        with self.connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute("SELECT *, ctid::text FROM task_instance")
            tis = {row["id"]: row for row in cursor}
        return Snapshot(tis, set(self.connection.execute(self._all_other_rows)))

    def _put(self, fleet: list[Run]) -> None:
        (now,) = self.connection.execute("SELECT now()").fetchone() or (None,)
        assert now is not None
        alike: dict[tuple[str, ...], list[Row]] = {}  # by table and columns
        for named, values in rows_of(fleet, now):
            stamps = dict.fromkeys(TIMESTAMPS.get(named, ()), now)
            table, stored = as_stored(named, {**stamps, **values}, self._columns)
            alike.setdefault((table, *stored), []).append(stored)
        with self.connection.cursor() as cursor:
            for (table, *columns), rows in alike.items():
                cursor.executemany(self._insert_into(table, columns), rows)

    def _insert_into(self, table: str, columns: list[str]) -> sql.Composed:
        return sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.SQL(", ").join(map(sql.Placeholder, columns)),
        )


def assert_moved_as_in(fleet: list[Run], before: Snapshot, after: Snapshot) -> None:
    """Only dag_version_id and updated_at have changed, only of the TIs that the specification has moved."""
    assert after.other_rows == before.other_rows
    assert after.tis.keys() == before.tis.keys()
    for ti in (ti for run in fleet for ti in run.tis):
        old, new = before.tis[ti.id], after.tis[ti.id]
        if ti.version != old["dag_version_id"]:
            assert new["updated_at"] > old["updated_at"]
            old = old | {"dag_version_id": ti.version, "updated_at": new["updated_at"], "ctid": new["ctid"]}
        assert new == old
    live = {ti.id for run in fleet for ti in run.tis}
    archived = before.tis.keys() - live  # from Airflow 3.4 on, past tries
    assert [after.tis[past] for past in archived] == [before.tis[past] for past in archived]


def in_promised_order(rows: Iterable[dagbump.RunPreview]) -> list[dagbump.RunPreview]:
    """Examined runs come in Airflow's order. The order of the others is not promised."""
    examined = {"bump", "needs_verify", "missing_tasks"}
    return sorted(rows, key=lambda row: 0 if row.verdict in examined else row.dag_run_id)


@pytest.fixture(scope="module", params=["without the index", "with the index"])
def live(request: pytest.FixtureRequest, postgres: Server, dagbump_template: str) -> Iterator[LiveDatabase]:
    with postgres.temporary_database(dagbump_template) as url, closing(LiveDatabase(server.libpq(url))) as live:
        if request.param == "with the index":
            build_optional_index(live.connection)
        yield live


@pytest.mark.pair
@properties
@given(case=fleets_and_calls())
def test_bump_answers_and_writes_what_the_contract_says(live: LiveDatabase, case: tuple[list[Run], Call]) -> None:
    fleet, call = case
    with live.uncommitted(fleet):
        before = live.snapshot()
        assert dagbump.bump(live.connection, *call).runs == specification.bump(fleet, call)
        assert_moved_as_in(fleet, before, live.snapshot())


@properties
@given(case=fleets_and_calls())
def test_preview_predicts_the_bump_and_writes_nothing(live: LiveDatabase, case: tuple[list[Run], Call]) -> None:
    fleet, call = case
    with live.uncommitted(fleet):
        before = live.snapshot()
        preview = dagbump.preview(live.connection, *call[:-1])
        assert live.snapshot() == before
        assert in_promised_order(preview) == in_promised_order(specification.preview(fleet, call))

        result = dagbump.bump(live.connection, *call)
        moving = [row for row in preview if row.stale and row.verdict in {"bump", "missing_tasks"}]
        predicted = {(row.dag_run_id, row.stale) for row in moving}
        assert predicted == {(row.dag_run_id, row.bumped) for row in result.runs if row.bumped}


@properties
@given(fleet=fleets())
def test_verify_scope_finds_what_the_contract_says_and_writes_nothing(live: LiveDatabase, fleet: list[Run]) -> None:
    ids = [run.id for run in fleet]
    with live.uncommitted(fleet):
        before = live.snapshot()
        assert client.verify_scope(live.connection, ids) == specification.verify_scope(fleet, ids)
        assert live.snapshot() == before


@properties
@given(case=fleets_and_calls())
def test_a_second_bump_finds_nothing_to_write(live: LiveDatabase, case: tuple[list[Run], Call]) -> None:
    fleet, call = case
    with live.uncommitted(fleet):
        dagbump.bump(live.connection, *call)
        specification.bump(fleet, call)
        before = live.snapshot()
        second = dagbump.bump(live.connection, *call)
        assert live.snapshot() == before
        assert second.runs == specification.bump(fleet, call)
        assert (second.bumped, second.locked) == (0, 0)


@properties
@given(case=fleets_calls_and_holds())
def test_what_others_hold_is_counted_and_left_for_the_next_bump(
    live: LiveDatabase, case: tuple[list[Run], Call, Hold]
) -> None:
    fleet, call, hold = case
    with live.committed(fleet):
        before = live.snapshot()
        with live.held(hold):
            assert dagbump.bump(live.connection, *call).runs == specification.bump(fleet, call, hold.in_the_way)
            assert_moved_as_in(fleet, before, live.snapshot())
        after_release = dagbump.bump(live.connection, *call)
        assert after_release.runs == specification.bump(fleet, call)
        assert after_release.locked == 0
        assert_moved_as_in(fleet, before, live.snapshot())


# ---- Filters ----

# The functions that can be asked about some runs or some DAGs only, and how; other than running, which answers a sum.
FILTERED = {
    "bump": ("dag_run_ids", "dag_ids"),
    "preview": ("dag_run_ids", "dag_ids"),
    "holders": ("dag_run_ids", "dag_ids"),
    "verify_scope": ("dag_run_ids",),
    "versions_of_runs": ("dag_run_ids",),
    "repairable": ("dag_ids",),
    "versions": ("dag_ids",),
    "versions_by_day": ("dag_ids",),
}


# Filtered as well: the rows of running add up (below), and repair_batch answers one row for all runs.
OTHERWISE_TESTED = {"running": ("dag_ids",), "repair_batch": ("dag_run_ids",)}


def test_each_function_with_a_filter_is_among_them(connection: psycopg.Connection[Any]) -> None:
    rows = connection.execute(
        """
        SELECT proname, ARRAY(
            SELECT name FROM unnest(proargnames[:pronargs]) AS name WHERE name IN ('dag_run_ids', 'dag_ids')
        )
        FROM pg_proc WHERE pronamespace = 'dagbump'::regnamespace AND prokind = 'f'
        """
    ).fetchall()
    found = {function: tuple(filters) for function, filters in rows if filters}
    assert found == FILTERED | OTHERWISE_TESTED


@st.composite
def entangled_fleets(draw: st.DrawFn) -> tuple[list[Run], Hold, set[int]]:
    """Draw a fleet in which TIs are on versions of any DAG, the rows of it that are locked, and some of its runs."""
    fleet = draw(fleets())
    everything = [version.id for dag in {run.dag.dag_id: run.dag for run in fleet}.values() for version in dag.versions]
    anything = st.sampled_from([None, *everything])
    for run in fleet:
        run.own_version = draw(anything)
        for ti in run.tis:
            ti.version = draw(anything)
    hold = Hold(draw(subsets({ti.id for run in fleet for ti in run.tis})), draw(subsets(everything)), "UPDATE")
    return fleet, hold, {run.id for run in fleet if draw(st.booleans())}


@properties
@given(case=entangled_fleets())
def test_a_filter_chooses_rows_and_changes_none(live: LiveDatabase, case: tuple[list[Run], Hold, set[int]]) -> None:
    fleet, hold, run_ids = case
    dag_of = {run.id: run.dag.dag_id for run in fleet}
    with live.committed(fleet), live.held(hold):
        for function, filters in FILTERED.items():
            everything = {} if "dag_ids" in filters else {"dag_run_ids": list(dag_of)}
            unfiltered = answer(live.connection, function, everything)
            if "dag_run_ids" in filters:
                some = answer(live.connection, function, {"dag_run_ids": list(run_ids)})
                assert some == [row for row in unfiltered if row["dag_run_id"] in run_ids], function
            for dag_id in set(dag_of.values()) if "dag_ids" in filters else ():
                some = answer(live.connection, function, {"dag_ids": [dag_id]})
                assert some == [row for row in unfiltered if its_dag(row, dag_of) == dag_id], function
        each = [run for dag_id in set(dag_of.values()) for run in client.running(live.connection, [dag_id])]
        assert set(each) == set(client.running(live.connection))


@properties
@given(case=entangled_fleets())
def test_the_functions_of_the_page_agree_with_preview(
    live: LiveDatabase, case: tuple[list[Run], Hold, set[int]]
) -> None:
    fleet, _, _ = case
    with live.committed(fleet):
        previews = {row.dag_run_id: row for row in dagbump.preview(live.connection)}
        for search in (None, ""):
            running = client.running(live.connection, search=search)
            told = {run.dag_run_id: (run.verdict, run.stale) for run in running if run.verdict}
            assert told == {run: (row.verdict, row.stale) for run, row in previews.items()}
        for run in running:
            row = previews.get(run.dag_run_id)
            missing, vanished = (row.missing_tasks or (), row.vanished_tasks or ()) if row else ((), ())
            assert run.missing_or_vanished == len(missing) + len(vanished) or row is None
            tasks = client.tasks_of_run(live.connection, run.dag_run_id, page_size=1_000)
            assert sorted(task.task_id for task in tasks if task.missing) == sorted(missing)
            named = {task.task_id for task in tasks if task.vanished}
            # A run whose only fault is a vanished task is not shown by preview.
            assert named == set(vanished) if row else len(named) == run.missing_or_vanished
            assert sum(task.stale for task in tasks) == run.stale
            assert {task.total for task in tasks} <= {len(tasks)}


def its_dag(row: Row, dag_of: Mapping[int, str]) -> str:
    dag_id: str = row["dag_id"] if "dag_id" in row else dag_of[row["dag_run_id"]]
    return dag_id


def answer(connection: psycopg.Connection[Any], function: str, arguments: dict[str, Any]) -> list[Row]:
    """Call a function, roll back, and return its rows."""
    named = sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(name), value) for name, value in arguments.items()
    )
    call = sql.SQL("SELECT * FROM dagbump.{}({})").format(sql.Identifier(function), named)
    with connection.transaction(force_rollback=True), connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(call).fetchall()
