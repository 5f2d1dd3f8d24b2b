"""dagbump.bump and dagbump.preview, case by case, in a live database."""

from __future__ import annotations

from typing import Any

import dagbump
import psycopg
import pytest
from support.fleet import Fleet, stale_run
from support.releases import environments
from support.server import Connect

pytestmark = [pytest.mark.server, pytest.mark.tables, pytest.mark.usefixtures("either_way")]

Connection = psycopg.Connection[Any]

UNFINISHED = [None, "scheduled", "queued", "running", "up_for_retry", "deferred", "a_later_airflows"]
FINISHED = ["success", "failed", "skipped", "upstream_failed", "removed"]


def counts(result: dagbump.BumpResult) -> list[tuple[int, int, int, bool]]:
    return [(row.dag_run_id, row.bumped, row.locked, row.needs_verify) for row in result.runs]


def tasks_of(connection: Connection) -> list[tuple[Any, ...]]:
    return [
        (row.dag_run_id, row.verdict, row.stale, row.missing_tasks, row.vanished_tasks)
        for row in dagbump.preview(connection)
    ]


def verdicts(rows: tuple[dagbump.RunPreview, ...]) -> dict[int, str]:
    return {row.dag_run_id: row.verdict for row in rows}


@pytest.mark.pair
def test_moves_every_unfinished_ti_and_no_finished_one(fleet: Fleet, connection: Connection) -> None:
    old, new = fleet.dag("d", versions=2)
    run = fleet.run("d")
    fleet.ti(run, new, "success")
    unfinished = fleet.tis(run, old, UNFINISHED)
    finished = fleet.tis(run, old, FINISHED)

    result = dagbump.bump(connection)
    connection.commit()

    assert counts(result) == [(run, len(UNFINISHED), 0, False)]
    assert fleet.versions_of(unfinished) == [new] * len(UNFINISHED)
    assert fleet.versions_of(finished) == [old] * len(FINISHED)


def test_a_row_names_the_run_and_the_version(fleet: Fleet, connection: Connection) -> None:
    _, new = fleet.dag("d", versions=2)
    run = fleet.run("d", "manual__1")
    fleet.tis(run, None, ["queued", None])
    fleet.ti(run, new, "success")

    assert dagbump.bump(connection).runs == (dagbump.RunBump(run, "d", "manual__1", new, 2, 2, 0, needs_verify=False),)


def test_a_ti_without_a_version_is_stale(fleet: Fleet, connection: Connection) -> None:
    (only,) = fleet.dag("d", versions=1)
    run = fleet.run("d")
    fleet.ti(run, only, "running")
    orphan = fleet.ti(run, None, "scheduled")

    assert counts(dagbump.bump(connection)) == [(run, 1, 0, False)]
    connection.commit()
    assert fleet.versions_of([orphan]) == [only]


@pytest.mark.pair
def test_a_second_call_answers_nothing_and_writes_nothing(fleet: Fleet, connection: Connection) -> None:
    old, new = fleet.dag("d", versions=2)
    run = fleet.run("d")
    fleet.ti(run, old, "scheduled")
    fleet.ti(run, new, "running")
    dagbump.bump(connection)
    connection.commit()

    assert dagbump.bump(connection).runs == ()
    # A transaction that has written, or locked a row, has an id.
    assert connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)


def test_writes_updated_at_and_no_other_column(fleet: Fleet, connection: Connection) -> None:
    old, new = fleet.dag("d", versions=2)
    run = fleet.run("d")
    fleet.ti(run, new, "running", updated_at="2020-01-01T00:00:00Z")
    stale = fleet.ti(run, old, "queued", updated_at="2020-01-01T00:00:00Z", hostname="worker", map_index=3)
    before = "SELECT to_jsonb(ti) - 'updated_at' - 'dag_version_id', updated_at FROM task_instance AS ti WHERE id = %s"
    (row_before, stamp_before) = connection.execute(before, (stale,)).fetchone() or (None, None)

    dagbump.bump(connection)

    (row_after, stamp_after) = connection.execute(before, (stale,)).fetchone() or (None, None)
    assert row_after == row_before
    assert stamp_before is not None
    assert stamp_after > stamp_before
    untouched = connection.execute("SELECT count(*) FROM task_instance WHERE updated_at = '2020-01-01T00:00:00Z'")
    assert untouched.fetchone() == (1,)


def test_latest_is_the_highest_number_whatever_the_clock_said(fleet: Fleet, connection: Connection) -> None:
    fleet.dag("d")
    newest = fleet.version("d", 3, created_at="2020-01-01T00:00:00Z")
    older = fleet.version("d", 2, created_at="2030-01-01T00:00:00Z")
    run = fleet.run("d")
    fleet.ti(run, newest, "success")
    stale = fleet.ti(run, older, "scheduled")

    assert counts(dagbump.bump(connection, caller_verifies=True)) == [(run, 1, 0, False)]
    connection.commit()
    assert fleet.versions_of([stale]) == [newest]


def test_the_same_run_id_in_two_dags_is_two_runs(fleet: Fleet, connection: Connection) -> None:
    old_a, new_a = fleet.dag("a", versions=2)
    (only_b,) = fleet.dag("b", versions=1)
    run_a, run_b = fleet.run("a", "same"), fleet.run("b", "same")
    fleet.ti(run_a, new_a, "success")
    stale = fleet.ti(run_a, old_a)
    other = fleet.ti(run_b, only_b)

    assert counts(dagbump.bump(connection)) == [(run_a, 1, 0, False)]
    connection.commit()
    assert fleet.versions_of([stale, other]) == [new_a, only_b]


def test_ids_that_look_alike_are_told_apart(fleet: Fleet, connection: Connection) -> None:
    # The same text when put together; another case; a pattern that matches the others.
    ids = [("a", "bc"), ("ab", "c"), ("A", "bc"), ("%", "%"), ("a", "BC")]
    versions = {dag_id: fleet.dag(dag_id, versions=2) for dag_id in dict.fromkeys(dag_id for dag_id, _ in ids)}
    stale = []
    for dag_id, run_id in ids:
        old, new = versions[dag_id]
        run = fleet.run(dag_id, run_id)
        fleet.ti(run, new, "success")
        stale.append(fleet.ti(run, old))

    result = dagbump.bump(connection, dag_ids=["a"])
    connection.commit()

    assert sorted((run.run_id, run.bumped) for run in result.runs) == [("BC", 1), ("bc", 1)]
    assert fleet.versions_of(stale) == [versions[dag_id][1 if dag_id == "a" else 0] for dag_id, _ in ids]


def test_other_runs_of_the_dag_on_the_same_version_are_left_alone(fleet: Fleet, connection: Connection) -> None:
    old, new = fleet.dag("d", versions=2)
    due, unverified = fleet.run("d"), fleet.run("d")
    left = [unverified, fleet.run("d", bundle_version="1"), fleet.run("d", state="success")]
    fleet.ti(due, new, "success")
    moved = fleet.tis(due, old, ["queued", None])
    others = [fleet.ti(run, old, "queued") for run in left]

    assert counts(dagbump.bump(connection)) == [(due, 2, 0, False), (unverified, 0, 0, True)]
    connection.commit()
    assert fleet.versions_of([*moved, *others]) == [new] * 2 + [old] * 3


def test_mapped_tis_are_moved_one_by_one(fleet: Fleet, connection: Connection) -> None:
    old, new = fleet.dag("d", versions=2)
    run = fleet.run("d")
    fleet.ti(run, new, "success")
    states = ["success", "running", None, "failed", "scheduled"]
    mapped = [fleet.ti(run, old, state, task_id="m", map_index=index) for index, state in enumerate(states)]

    assert dagbump.bump(connection).bumped == 3
    connection.commit()
    assert fleet.versions_of(mapped) == [old, new, new, old, new]


@pytest.mark.pair
class TestUnverifiedRun:
    """A run with the latest version on none of its TIs: bumping it hides from Airflow that it has to verify it."""

    def test_is_left_alone_and_said(self, fleet: Fleet, connection: Connection) -> None:
        old, new = fleet.dag("d", versions=2)
        run = fleet.run("d", "r")
        stale = fleet.tis(run, old, UNFINISHED)

        result = dagbump.bump(connection)

        assert result.runs == (dagbump.RunBump(run, "d", "r", new, 2, 0, 0, needs_verify=True),)
        assert result.needs_verify == result.runs
        assert connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)
        assert fleet.versions_of(stale) == [old] * len(stale)

    def test_is_bumped_for_a_caller_who_verifies(self, fleet: Fleet, connection: Connection) -> None:
        old, new = fleet.dag("d", versions=2)
        run = fleet.run("d")
        stale = fleet.tis(run, old, UNFINISHED)
        fleet.ti(run, old, "success")

        assert counts(dagbump.bump(connection, caller_verifies=True)) == [(run, len(stale), 0, True)]
        connection.commit()
        assert fleet.versions_of(stale) == [new] * len(stale)
        assert dagbump.bump(connection, caller_verifies=True).runs == ()

    def test_without_stale_tis_is_still_due(self, fleet: Fleet, connection: Connection) -> None:
        old, _ = fleet.dag("d", versions=2)
        run = fleet.run("d")
        fleet.tis(run, old, FINISHED)

        assert counts(dagbump.bump(connection)) == [(run, 0, 0, True)]
        assert counts(dagbump.bump(connection, caller_verifies=True)) == [(run, 0, 0, True)]

    def test_without_any_ti_is_due(self, fleet: Fleet, connection: Connection) -> None:
        fleet.dag("d", versions=1)
        run = fleet.run("d")

        assert counts(dagbump.bump(connection)) == [(run, 0, 0, True)]

    def test_a_past_try_on_the_latest_version_says_that_it_was_verified(
        self, fleet: Fleet, connection: Connection
    ) -> None:
        old, new = fleet.dag("d", versions=2)
        run = fleet.run("d")
        stale = fleet.ti(run, old, "scheduled")
        fleet.past_try(stale, new)

        assert counts(dagbump.bump(connection)) == [(run, 1, 0, False)]

    def test_a_past_try_of_another_run_says_nothing(self, fleet: Fleet, connection: Connection) -> None:
        old, new = fleet.dag("d", versions=2)
        run, other = fleet.run("d"), fleet.run("d", state="success")
        fleet.ti(run, old, "scheduled")
        fleet.past_try(fleet.ti(other, old, "success"), new)

        assert counts(dagbump.bump(connection)) == [(run, 0, 0, True)]


NOT_EXAMINED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "pinned": ({}, {"bundle_version": "0a1b2c"}),
    "paused": ({"is_paused": True}, {}),
    "stale_dag": ({"is_stale": True}, {}),
    "not_due": ({}, {"run_after": "2999-01-01T00:00:00Z"}),
}


@pytest.mark.pair
@pytest.mark.parametrize("verdict", NOT_EXAMINED)
@pytest.mark.parametrize("caller_verifies", [False, True])
def test_runs_that_airflow_does_not_examine_are_left_alone(
    fleet: Fleet, connection: Connection, verdict: str, caller_verifies: bool
) -> None:
    dag, run_columns = NOT_EXAMINED[verdict]
    old, new = fleet.dag("d", versions=2, **dag)
    run = fleet.run("d", **run_columns)
    fleet.ti(run, new, "success")
    fleet.ti(run, old, "scheduled")

    assert verdicts(dagbump.preview(connection)) == {run: verdict}
    assert dagbump.bump(connection, caller_verifies=caller_verifies).runs == ()


@pytest.mark.parametrize("state", ["queued", "success", "failed", None])
def test_runs_that_are_not_running_are_not_even_previewed(
    fleet: Fleet, connection: Connection, state: str | None
) -> None:
    old, new = fleet.dag("d", versions=2)
    run = fleet.run("d", state=state)
    fleet.ti(run, new, "success")
    fleet.ti(run, old, "scheduled")

    assert dagbump.preview(connection) == ()
    assert dagbump.bump(connection, [run], caller_verifies=True).runs == ()


def test_an_empty_bundle_version_does_not_pin(fleet: Fleet, connection: Connection) -> None:
    old, new = fleet.dag("d", versions=2)
    run = fleet.run("d", bundle_version="")
    fleet.ti(run, new, "success")
    fleet.ti(run, old, "scheduled")

    assert counts(dagbump.bump(connection)) == [(run, 1, 0, False)]


def test_without_a_version_there_is_nothing_to_bump_to(fleet: Fleet, connection: Connection) -> None:
    fleet.dag("d")
    run = fleet.run("d")
    fleet.ti(run, None, "scheduled")

    (row,) = dagbump.preview(connection)
    assert (row.verdict, row.dag_version_id, row.version_number, row.stale) == ("no_version", None, None, 1)
    assert dagbump.bump(connection, caller_verifies=True).runs == ()


def test_a_run_whose_dag_has_gone_is_left_alone(fleet: Fleet, connection: Connection) -> None:
    run = fleet.run("gone")
    fleet.ti(run, None, "scheduled")

    assert verdicts(dagbump.preview(connection)) == {run: "no_version"}
    assert dagbump.bump(connection, caller_verifies=True).runs == ()


def test_not_due_is_said_of_a_run_whose_dag_has_gone_too(fleet: Fleet, connection: Connection) -> None:
    run = fleet.run("gone", run_after="2999-01-01T00:00:00Z")
    fleet.ti(run, None, "scheduled")

    assert verdicts(dagbump.preview(connection)) == {run: "not_due"}
    assert dagbump.bump(connection, caller_verifies=True).runs == ()


def test_a_latest_version_that_is_not_serialized_is_not_bumped_to(fleet: Fleet, connection: Connection) -> None:
    (old,) = fleet.dag("d", versions=1)
    fleet.version("d", 2, serialized=False)
    run = fleet.run("d")
    fleet.ti(run, old, "scheduled")

    assert verdicts(dagbump.preview(connection)) == {run: "no_serialized_dag"}
    assert dagbump.bump(connection, caller_verifies=True).runs == ()


class TestArguments:
    def three_runs(self, fleet: Fleet) -> list[int]:
        """Make a run each in the DAGs a, b and c, with one stale TI each, in the reverse of the scheduler's order."""
        runs = []
        for number, dag_id in enumerate("abc"):
            old, new = fleet.dag(dag_id, versions=2)
            runs.append(fleet.run(dag_id, last_scheduling_decision=f"2024-01-0{9 - number}T00:00:00Z"))
            fleet.ti(runs[-1], new, "success")
            fleet.ti(runs[-1], old)
        return runs

    def bumped(self, connection: Connection, **arguments: Any) -> list[int]:
        return [row.dag_run_id for row in dagbump.bump(connection, **arguments).runs]

    def test_no_runs_at_all(self, connection: Connection) -> None:
        assert dagbump.bump(connection).runs == ()

    def test_dag_run_ids(self, fleet: Fleet, connection: Connection) -> None:
        a, b, _ = self.three_runs(fleet)
        assert self.bumped(connection, dag_run_ids=[a, b, a, 2**40]) == [b, a]

    def test_dag_ids(self, fleet: Fleet, connection: Connection) -> None:
        a, _, c = self.three_runs(fleet)
        assert self.bumped(connection, dag_ids=["a", "c", "nothing"]) == [c, a]

    def test_both(self, fleet: Fleet, connection: Connection) -> None:
        a, b, _ = self.three_runs(fleet)
        assert self.bumped(connection, dag_run_ids=[a, b], dag_ids=["b", "c"]) == [b]

    @pytest.mark.parametrize("name", ["dag_run_ids", "dag_ids"])
    def test_an_empty_array_means_no_run(self, fleet: Fleet, connection: Connection, name: str) -> None:
        self.three_runs(fleet)
        assert self.bumped(connection, **{name: []}) == []

    def test_max_runs_takes_them_in_the_schedulers_order(self, fleet: Fleet, connection: Connection) -> None:
        a, b, c = self.three_runs(fleet)
        assert self.bumped(connection, max_runs=0) == []
        assert self.bumped(connection, max_runs=1) == [c]
        connection.rollback()
        fleet.backfill({c: 7, b: 3})
        # Up to 3.3, a run of no backfill comes first, then those of backfills by sort_ordinal.
        first = [a, b] if environments.number() < (3, 4) else [c, b]
        assert self.bumped(connection, max_runs=2) == first
        connection.rollback()
        fleet.execute("UPDATE dag_run SET last_scheduling_decision = NULL WHERE id = %s", b)
        assert self.bumped(connection, max_runs=9) == ([a, b, c] if environments.number() < (3, 4) else [b, c, a])

    def test_max_runs_counts_examined_runs_whether_or_not_they_have_work(
        self, fleet: Fleet, connection: Connection
    ) -> None:
        a, b, c = self.three_runs(fleet)
        dagbump.bump(connection, [c])
        assert self.bumped(connection, max_runs=2) == [b]
        assert self.bumped(connection) == [a]

    @pytest.mark.parametrize("function", ["bump", "preview"])
    def test_without_max_runs_no_run_is_looked_up_in_its_backfill(
        self, fleet: Fleet, connection: Connection, function: str
    ) -> None:
        fleet.backfill({stale_run(fleet): 1})
        connection.execute(f"SELECT * FROM dagbump.{function}()".encode())
        scans = "SELECT seq_scan + idx_scan FROM pg_stat_xact_user_tables WHERE relname = 'backfill_dag_run'"
        assert connection.execute(scans).fetchone() == (0,)

    @pytest.mark.parametrize("function", ["bump", "preview"])
    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            ("max_runs => -1", "max_runs"),
            ("dag_run_ids => '{1,NULL}'", "dag_run_ids"),
            ("dag_ids => '{a,NULL}'", "dag_ids"),
            ("caller_verifies => NULL", "caller_verifies"),
        ],
    )
    def test_invalid_ones_are_refused_by_name(
        self, connection: Connection, function: str, arguments: str, named: str
    ) -> None:
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=named):
            connection.execute(f"SELECT * FROM dagbump.{function}({arguments})".encode())


class TestPreview:
    def test_counts_by_state_and_changes_nothing(self, fleet: Fleet, connection: Connection) -> None:
        old, new = fleet.dag("d", versions=2)
        run = fleet.run("d", "r")
        fleet.ti(run, new, "success")
        stale = fleet.tis(run, old, [None, None, "scheduled"])
        fleet.tis(run, old, FINISHED)

        states = {"no_status": 2, "scheduled": 1}
        expected = dagbump.RunPreview(run, "d", "r", new, 2, 3, states, "bump", 0, None, None)
        assert dagbump.preview(connection) == (expected,)
        assert connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)
        assert fleet.versions_of(stale) == [old] * 3

    def test_shows_no_run_on_which_all_is_well(self, fleet: Fleet, connection: Connection) -> None:
        (only,) = fleet.dag("d", versions=1)
        fleet.tis(fleet.run("d"), only, [*UNFINISHED, *FINISHED])
        fleet.tis(fleet.run("d", bundle_version="pin"), only, UNFINISHED)

        assert dagbump.preview(connection) == ()

    def test_tells_the_two_forms_apart(self, fleet: Fleet, connection: Connection) -> None:
        old, _ = fleet.dag("d", versions=2)
        with_stale, without = fleet.run("d", run_after="2024-01-01T00:00:00Z"), fleet.run("d")
        fleet.ti(with_stale, old, "scheduled")
        fleet.ti(without, old, "success")

        assert verdicts(dagbump.preview(connection)) == {with_stale: "needs_verify", without: "needs_verify"}
        assert verdicts(dagbump.preview(connection, caller_verifies=True)) == {
            with_stale: "bump",
            without: "needs_verify",
        }

    def test_says_the_first_obstacle_of_several(self, fleet: Fleet, connection: Connection) -> None:
        (other,) = fleet.dag("other", versions=1)
        fleet.dag("d", is_paused=True, is_stale=True)
        run = fleet.run("d", bundle_version="pin", run_after="2999-01-01T00:00:00Z")
        fleet.ti(run, None)

        removals = {
            "pinned": "UPDATE {schema}.dag_run SET bundle_version = ''",
            "paused": "UPDATE {schema}.dag SET is_paused = false",
            "stale_dag": "UPDATE {schema}.dag SET is_stale = false",
            "not_due": "UPDATE {schema}.dag_run SET run_after = now() - interval '1 hour'",
        }
        assert verdicts(dagbump.preview(connection)) == {run: "versionless"}
        fleet.execute("UPDATE {schema}.task_instance SET dag_version_id = %s", other)
        for verdict, removal in removals.items():
            assert verdicts(dagbump.preview(connection)) == {run: verdict}
            fleet.execute(removal)
            connection.rollback()  # whose now() is that of its beginning
        assert verdicts(dagbump.preview(connection)) == {run: "no_version"}
        fleet.version("d", 1, serialized=False)
        assert verdicts(dagbump.preview(connection)) == {run: "no_serialized_dag"}

    def test_a_run_that_lacks_a_task_although_it_bears_the_sign(self, fleet: Fleet, connection: Connection) -> None:
        fleet.dag("d")
        old, new = fleet.version("d", 1), fleet.version("d", 2, tasks=["a", "b", "c"])
        run, complete, stale = fleet.run("d"), fleet.run("d"), fleet.run("d")
        for one, tasks in ((run, "a"), (complete, "abc"), (stale, "ac")):
            for task in tasks:
                fleet.ti(one, new, "success", task_id=task)
        fleet.ti(stale, old, "queued", task_id="x")

        assert tasks_of(connection) == [
            (run, "missing_tasks", 0, ("b", "c"), ()),
            (stale, "missing_tasks", 1, ("b",), ("x",)),
        ]
        assert counts(dagbump.bump(connection)) == [(stale, 1, 0, False)]

    def test_a_removed_task_that_the_latest_version_has_is_missing(self, fleet: Fleet, connection: Connection) -> None:
        fleet.dag("d")
        new = fleet.version("d", 1, tasks=["a", "new", "mapped"])
        run, complete = fleet.run("d"), fleet.run("d")
        for one, state in ((run, "removed"), (complete, "success")):
            fleet.ti(one, new, "success", task_id="a")
            fleet.ti(one, new, state, task_id="new")
            # An index of a mapped task that is one too many stays removed.
            fleet.ti(one, new, None, task_id="mapped", map_index=0)
            fleet.ti(one, new, "removed", task_id="mapped", map_index=1)
        pinned = fleet.run("d", bundle_version="pin", created_dag_version_id=new)
        fleet.ti(pinned, new, "removed", task_id="a")

        rows = {row.dag_run_id: (row.verdict, row.missing_tasks) for row in dagbump.preview(connection)}
        assert rows == {run: ("missing_tasks", ("new",)), pinned: ("pinned", ("a", "mapped", "new"))}

    def test_a_run_that_is_still_to_be_verified_does_not_count_as_lacking_a_task(
        self, fleet: Fleet, connection: Connection
    ) -> None:
        (old,) = fleet.dag("d", versions=1)
        fleet.version("d", 2, tasks=["a", "b"])
        run = fleet.run("d")
        fleet.ti(run, old, "queued", task_id="a")

        for caller_verifies, verdict in ((False, "needs_verify"), (True, "bump")):
            (row,) = dagbump.preview(connection, caller_verifies=caller_verifies)
            assert (row.verdict, row.missing_tasks) == (verdict, ("b",))

    def test_an_obstacle_comes_before_a_missing_task(self, fleet: Fleet, connection: Connection) -> None:
        fleet.dag("d", is_paused=True)
        new = fleet.version("d", 1, tasks=["a", "b"])
        fleet.ti(fleet.run("d"), new, "success", task_id="a")

        (row,) = dagbump.preview(connection)
        assert (row.verdict, row.stale, row.missing_tasks) == ("paused", 0, ("b",))

    def test_a_pinned_run_is_held_against_its_own_version(self, fleet: Fleet, connection: Connection) -> None:
        fleet.dag("d")
        own = fleet.version("d", 1, tasks=["a", "b"])
        between, _ = fleet.version("d", 2, tasks=["a"]), fleet.version("d", 3, tasks=["a", "b", "c"])
        complete, lacking, astray = (fleet.run("d", bundle_version="pin", created_dag_version_id=own) for _ in range(3))
        for run, tasks in ((complete, "ab"), (lacking, "a"), (astray, "ab")):
            for task in tasks:
                fleet.ti(run, own, "scheduled", task_id=task)
        fleet.ti(astray, between, "scheduled", task_id="x")

        assert tasks_of(connection) == [(lacking, "pinned", 0, ("b",), ()), (astray, "pinned", 1, (), ("x",))]

    def test_a_pinned_run_whose_own_version_is_gone_is_held_against_the_latest(
        self, fleet: Fleet, connection: Connection
    ) -> None:
        fleet.dag("d")
        new = fleet.version("d", 1, tasks=["a", "b"])
        fleet.ti(fleet.run("d", bundle_version="pin"), new, "scheduled", task_id="a")

        (row,) = dagbump.preview(connection)
        assert (row.verdict, row.stale, row.missing_tasks) == ("pinned", 0, ("b",))

    def test_a_task_that_nothing_will_ever_start(self, fleet: Fleet, connection: Connection) -> None:
        (version,) = fleet.dag("d", versions=1)
        pinned, finished, unpinned = (
            fleet.run("d", bundle_version="pin"),
            fleet.run("d", bundle_version="pin"),
            fleet.run("d"),
        )
        for run in (pinned, unpinned):
            fleet.tis(run, version, ["success"])
            fleet.tis(run, None, ["queued", None, "success"])
        fleet.tis(finished, None, ["success"])

        rows = {row.dag_run_id: (row.verdict, row.stale, row.versionless) for row in dagbump.preview(connection)}
        assert rows == {pinned: ("versionless", 2, 2), unpinned: ("bump", 2, 2)}

    def test_max_runs_leaves_the_runs_that_are_not_examined(self, fleet: Fleet, connection: Connection) -> None:
        old, new = fleet.dag("d", versions=2)
        pinned, first, second = fleet.run("d", bundle_version="pin"), fleet.run("d"), fleet.run("d")
        for run in (pinned, first, second):
            fleet.ti(run, new, "success")
            fleet.ti(run, old)

        assert verdicts(dagbump.preview(connection, max_runs=1)) == {first: "bump", pinned: "pinned"}

    def test_works_where_nothing_may_be_written(self, fleet: Fleet, connection: Connection) -> None:
        old, new = fleet.dag("d", versions=2)
        run = fleet.run("d")
        fleet.ti(run, new, "success")
        fleet.ti(run, old)
        fleet.serialize(new, "broken")
        connection.execute("SET TRANSACTION READ ONLY")

        assert verdicts(dagbump.preview(connection)) == {run: "bump"}


def test_rows_of_an_inheriting_table_are_no_tis_of_a_run(
    fleet: Fleet, connection: Connection, connect: Connect
) -> None:
    """The child table is made after the upgrade, which would refuse it. Its rows are stale TIs of other tasks, at the
    addresses of the run's TIs.
    """
    fleet.dag("d")
    old, between, new = (fleet.version("d", number, tasks=["a", "b", "c"]) for number in (1, 2, 3))
    run, steady, pinned = fleet.run("d"), fleet.run("d"), fleet.run("d", bundle_version="1", created_dag_version_id=new)
    done = [fleet.ti(each, new, "success", task_id="a") for each in (run, steady, pinned)]
    stale = [fleet.ti(run, old, "queued", task_id="b"), fleet.ti(run, between, "queued", task_id="c")]

    calls = ["preview()", "repairable()", "running()", "versions()", "holders()", "verify_scope(NULL)"]
    calls += [f"versions_of_runs('{{{run},{steady}}}')", f"tasks_of_run({run})", f"tasks_of_run({steady})"]

    def answers() -> list[list[tuple[Any, ...]]]:
        return [connection.execute(f"SELECT * FROM dagbump.{call}".encode()).fetchall() for call in calls]

    before = answers()
    connection.commit()
    fleet.execute("CREATE TABLE archive () INHERITS (task_instance)")
    fleet.connection.execute(
        """
        INSERT INTO archive
        SELECT (
            jsonb_populate_record(
                NULL::archive,
                to_jsonb(ti) || jsonb_build_object(
                    'id', gen_random_uuid(), 'state', 'queued', 'dag_version_id', version.id,
                    'task_id', 'archived_' || coalesce(version.id::text, '')
                )
            )
        ).*
        FROM ONLY task_instance AS ti
        CROSS JOIN (SELECT id FROM dag_version WHERE version_number < 3 UNION ALL SELECT NULL) AS version (id)
        """
    )
    others = "SELECT ctid, dag_version_id FROM archive ORDER BY ctid"
    archived = fleet.execute(others).fetchall()
    holder = connect()
    holder.execute("SELECT FROM archive FOR UPDATE")

    assert answers() == before
    holder.rollback()
    assert counts(dagbump.bump(connection)) == [(run, 2, 0, False)]
    assert counts(dagbump.bump(connection, report_all=True)) == [(each, 0, 0, False) for each in (run, steady)]
    connection.commit()
    assert fleet.versions_of([*stale, *done]) == [new] * 5
    assert fleet.execute(others).fetchall() == archived


def test_report_all_answers_each_examined_run_with_its_version(fleet: Fleet, connection: Connection) -> None:
    old, new = fleet.dag("d", versions=2)
    behind, fine, ended, pinned = (fleet.run("d", **columns) for columns in ({}, {}, {}, {"bundle_version": "1"}))
    for run, version, states in ((behind, old, [None]), (fine, new, [None, "running"]), (ended, new, ["success"])):
        fleet.tis(run, version, states)
    fleet.ti(pinned, old, "queued")

    result = dagbump.bump(connection, caller_verifies=True, report_all=True)
    connection.commit()

    assert sorted(counts(result)) == [(behind, 1, 0, True), (fine, 0, 0, False), (ended, 0, 0, False)]
    assert {row.dag_version_id for row in result.runs} == {new}
    assert result.needs_verify == (result.runs[0],)
    # By default, only the runs with something to do.
    assert dagbump.bump(connection, caller_verifies=True).runs == ()


def test_report_all_leaves_out_an_unverified_run_that_waits_without_a_ti_to_count(
    fleet: Fleet, connection: Connection, connect: Any
) -> None:
    old, new = fleet.dag("d", versions=2)
    run = fleet.run("d")
    fleet.ti(run, old, "success")
    connect().execute("SELECT FROM dag_version WHERE id = %s FOR UPDATE", (new,))

    assert dagbump.bump(connection, caller_verifies=True, report_all=True).runs == ()


def test_report_all_locks_and_writes_nothing_where_nothing_is_to_do(fleet: Fleet, connection: Connection) -> None:
    (new,) = fleet.dag("d", versions=1)
    fleet.tis(fleet.run("d"), new, [None, "running", "success"])

    assert len(dagbump.bump(connection, caller_verifies=True, report_all=True).runs) == 1
    assert connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)


def test_a_null_report_all_is_refused(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="report_all"):
        connection.execute("SELECT * FROM dagbump.bump(report_all => NULL)")


@pytest.mark.parametrize("report_all", [False, True])
def test_each_ti_is_read_once_and_with_the_index_two_of_a_run_with_nothing_to_do(
    fleet: Fleet, connection: Connection, report_all: bool
) -> None:
    old, new = fleet.dag("d", versions=2)
    fine, unverified = fleet.run("d"), fleet.run("d")
    fleet.tis(fine, new, ["queued", "scheduled", "running", None, "success"])
    fleet.tis(unverified, old, ["queued", "scheduled", None])
    fleet.execute("ANALYZE")
    connection.execute("SET enable_bitmapscan = off")  # it would count rows twice

    result = dagbump.bump(connection, report_all=report_all)

    assert [row.dag_run_id for row in result.needs_verify] == [unverified]
    read = "SELECT seq_scan, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'task_instance'"
    indexed = connection.execute("SELECT to_regclass('dagbump_ti_unfinished') IS NOT NULL").fetchone() == (True,)
    # With the index, one TI of the unverified run tells that the run has to be read.
    assert connection.execute(read).fetchone() == (0, 2 + 1 + 3 if indexed else 5 + 3)
