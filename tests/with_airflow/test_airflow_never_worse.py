"""Never worse than stock: one fleet, the same faults, the same other actors; a stock scheduler, and one with dagbump.

With dagbump, a run that ends on stock ends in the same state, no TI that lives on stock is removed or missing, and no
loop raises that does not raise on stock. Where stock itself goes wrong, a test says what dagbump does better.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.never_worse import LIVE, Harness, Life, worse
from support.releases import environments
from support.releases.live_dag import LiveDag
from support.releases.scheduler import Scheduler, scheduler_process
from support.server import Server

pytestmark = pytest.mark.airflow

SCRIPT = Path(__file__).parents[1] / "support" / "inside_airflow" / "never_worse.py"
RELEASE = environments.number()

V1 = 'task("A") >> task("B") >> task("C")'
V1_OTHERWISE = 'task("A") >> [task("B"), task("C")]'
V2 = 'task("A") >> task("B") >> task("C") >> task("D")'
STATES = {"A": "success", "B": "running"}
DONE = dict.fromkeys("ABC", "success")
ABC = {name: ("success", number) for name, number in (("A", 1), ("B", 2), ("C", 2))}


@pytest.fixture(scope="module")
def scheduler(
    postgres: Server, dagbump_template: str, statsd: socket.socket, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scheduler]:
    environment = {
        "AIRFLOW__API_AUTH__JWT_SECRET": "the executor signs its tasks with it",
        "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",  # a new version at once
        "AIRFLOW__CORE__PARALLELISM": "1000",
        "AIRFLOW__DAGBUMP__ENABLED": "True",
        "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
        "AIRFLOW__METRICS__STATSD_ON": "True",
        "AIRFLOW__METRICS__STATSD_PORT": str(statsd.getsockname()[1]),
        "AIRFLOW__SCHEDULER__MAX_DAGRUNS_PER_LOOP_TO_SCHEDULE": "20",
        "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": "0",
        "PGAPPNAME": "the scheduler",
        "PGOPTIONS": "-c lock_timeout=300ms",  # a wait fails, because nobody would release the lock
    }
    home = tmp_path_factory.mktemp("airflow")
    with scheduler_process(SCRIPT, postgres, dagbump_template, home, environment) as scheduler:
        yield scheduler


@pytest.fixture
def harness(scheduler: Scheduler, dagbump_template: str, statsd: socket.socket) -> Iterator[Harness]:
    statsd.setblocking(False)
    with closing(Harness(scheduler, dagbump_template, statsd)) as harness:
        yield harness
        harness.worker("abandon")


def bear_the_sign(harness: Harness, dag: LiveDag) -> None:
    """Let Airflow take a run for verified: put A on the latest version, as if A had been cleared."""
    version = dag.versions()[max(dag.versions())]
    harness.execute(
        "UPDATE task_instance SET dag_version_id = %s WHERE dag_id = %s AND task_id = 'A'", version, dag.dag_id
    )


def lacks(harness: Harness, dag: LiveDag, task: str) -> None:
    """Remove a task's TI from a run that Airflow takes for verified."""
    harness.execute("DELETE FROM task_instance WHERE dag_id = %s AND task_id = %s", dag.dag_id, task)


class TestMappedTaskInstances:
    """A second verify_integrity removes mapped TIs that are wanted, if it cannot see that they are."""

    CHAIN = 'numbers = task("numbers"); first = mapped("first", numbers.output); mapped("second", first.output)'

    @pytest.fixture
    def dag(self, harness: Harness) -> LiveDag:
        """Make a run in which second[0] runs and second[1] is done, of a DAG that then gets a new task."""
        dag = harness.dag(self.CHAIN, {})
        for task, indexes in (("numbers", [-1]), ("first", [0, 1])):
            harness.loop()
            push(dag, task, indexes, length=2)
        harness.loop()
        dag.worker("set_states", run=dag.run, states={"second[0]": "running", "second[1]": "success"})
        dag.write(f'{self.CHAIN}; task("new")')
        return dag

    def test_while_what_they_are_mapped_over_is_cleared_on_the_latest_version(
        self, harness: Harness, dag: LiveDag
    ) -> None:
        dag.worker("clear", run=dag.run, task="first[0]", on_latest=RELEASE >= (3, 1))
        harness.execute(  # up to 3.1, clearing takes the latest version only where the run has ended
            f"UPDATE task_instance SET dag_version_id = %s WHERE dag_id = %s AND state IS NULL AND {LIVE}",
            dag.versions()[2],
            dag.dag_id,
        )

        stock, dagbump = harness.both(harness.loop)

        assert worse(stock, dagbump) == ""
        tis = dagbump.by_run[dag.run]
        assert tis["second[0]"] == ("running", 2)
        if RELEASE < (3, 4):  # from there on, clearing verifies, and removes it
            assert tis["second[1]"][0] == "success"
        assert "new" in tis

    def test_while_what_they_are_mapped_over_is_cleared_after_the_landing(self, harness: Harness, dag: LiveDag) -> None:
        def life() -> None:
            harness.loop()
            dag.worker("clear", run=dag.run, task="first[0]")
            lacks(harness, dag, "new")
            harness.pass_time()
            harness.loop()

        stock, dagbump = harness.both(life)

        assert worse(stock, dagbump) == ""
        assert "new" in dagbump.by_run[dag.run]

    def test_after_what_they_are_mapped_over_has_become_shorter(self, harness: Harness, dag: LiveDag) -> None:
        def life() -> None:
            harness.loop()
            push(dag, "numbers", [-1], length=1)
            lacks(harness, dag, "new")
            harness.pass_time()
            harness.loop()

        stock, dagbump = harness.both(life)

        assert worse(stock, dagbump) == ""
        assert "new" in dagbump.by_run[dag.run]

    @pytest.mark.parametrize(
        ("before", "states", "after"),
        [
            (
                'mapped("m", ["true"] * 3)',
                {"m[0]": "success", "m[1]": "success", "m[2]": "running"},
                'mapped("m", ["true"] * 2)',
            ),
            ('task("m")', {"m": "running"}, 'mapped("m", ["true"] * 2)'),
        ],
        ids=["fewer", "mapped now"],
    )
    def test_of_a_task_that_has_changed(
        self, harness: Harness, before: str, states: dict[str, str], after: str
    ) -> None:
        dag = harness.dag(f'task("A") >> {before}', {"A": "success", **states})
        dag.write(f'task("A") >> {after} >> task("new")')
        bear_the_sign(harness, dag)

        stock, dagbump = harness.both(harness.loop)

        assert worse(stock, dagbump) == ""
        assert "new" in dagbump.by_run[dag.run]


def push(dag: LiveDag, task: str, indexes: list[int], length: int) -> None:
    """Let TIs succeed, and push so much to map over."""
    names = [task if index < 0 else f"{task}[{index}]" for index in indexes]
    dag.worker("push", run=dag.run, names=names, value=["true"] * length)


class TestVerifyRaises:
    """For a new task: verify_integrity raises in each loop in which it is called."""

    FAULTS = ("the hook raises", "no TI can be made", "cannot be expanded")
    LOOPS = 5

    @pytest.mark.parametrize("sign", [True, False])
    @pytest.mark.parametrize("fault", FAULTS)
    def test_the_run_goes_on(self, harness: Harness, fault: str, sign: bool) -> None:
        dag = harness.dag(V1, STATES, write=V2)
        if sign:
            bear_the_sign(harness, dag)
        others = [harness.dag(V1, STATES) for _ in range(2)]

        stock, dagbump = harness.both(lambda: harness.loops(self.LOOPS, fault, task="D"))

        assert worse(stock, dagbump) == ""
        assert dagbump.errors == [None] * self.LOOPS
        assert {run["state"] for run in dagbump.runs.values()} == {"success"}
        assert "D" not in dagbump.by_run[dag.run]
        assert len(dagbump.warnings_of(dag)) == 1
        assert [dagbump.warnings_of(other) for other in others] == [[], []]

    @pytest.mark.parametrize("sign", [True, False])
    def test_it_is_tried_once_in_an_interval(self, harness: Harness, sign: bool) -> None:
        dag = harness.dag(V1, STATES, write=V2)
        if sign:
            bear_the_sign(harness, dag)

        def life() -> None:
            for _ in range(2):
                for _ in range(3):
                    harness.loop("the hook raises", task="D")
                harness.pass_time()
            harness.loop()

        _, dagbump = harness.both(life)

        tried = [len(loop["verified"]) for loop in dagbump.loops]
        # Work that stock Airflow would do too is tried again at once.
        assert tried == [1, int(not sign), 0, 1, 0, 0, 1]
        assert len(dagbump.warnings_of(dag)) == 1
        assert "D" in dagbump.by_run[dag.run]

    def test_another_version_is_tried_at_once(self, harness: Harness) -> None:
        dag = harness.dag(V1, STATES, write=V2)
        bear_the_sign(harness, dag)

        def life() -> None:
            harness.loop("the hook raises", task="D")
            dag.write(f'{V2} >> task("E")')
            harness.loop("the hook raises", task="D")

        _, dagbump = harness.both(life)

        assert [len(loop["verified"]) for loop in dagbump.loops] == [1, 1]
        assert len(dagbump.warnings_of(dag)) == 2

    @pytest.mark.parametrize("sign", [True, False])
    @pytest.mark.parametrize("sqlstate", ["23505", "P0001"])  # Airflow rolls back and goes on; Airflow tries again
    def test_the_ti_cannot_be_inserted(self, harness: Harness, sqlstate: str, sign: bool) -> None:
        others = [harness.dag(V1, STATES) for _ in range(2)]
        dag = harness.dag(V1, STATES, write=V2)
        if sign:
            bear_the_sign(harness, dag)
        others += [harness.dag(V1, STATES) for _ in range(2)]
        refuse(harness, "INSERT ON task_instance", "new.task_id = 'D'", sqlstate)

        def life() -> None:
            for _ in range(3):
                harness.loop()
            harness.pass_time()
            harness.loops(5)

        stock, dagbump = harness.both(life)

        assert worse(stock, dagbump) == ""
        assert dagbump.errors == [None] * 8
        assert {dagbump.state_of(one) for one in (dag, *others)} == {"success"}
        assert len(dagbump.warnings_of(dag)) == 1
        # Another may have created the same TI, which is found out by a second try.
        assert sum(len(loop["verified"]) for loop in dagbump.loops) <= 3

    @pytest.mark.parametrize("states", [STATES, DONE], ids=["unfinished TIs", "none"])
    @pytest.mark.parametrize("sqlstate", ["40P01", "55P03", "57014"])
    def test_the_database_fails_once(self, harness: Harness, sqlstate: str, states: dict[str, str]) -> None:
        dag = harness.dag(V1, states, write=V2)
        refuse(harness, "INSERT ON task_instance", "new.task_id = 'D'", sqlstate, times=1)

        stock, dagbump = harness.both(lambda: harness.loops(6))

        assert worse(stock, dagbump) == ""
        assert dagbump.errors == [None] * 6
        assert dagbump.by_run[dag.run]["D"] == ("success", 2)

    @pytest.mark.parametrize("states", [STATES, DONE], ids=["unfinished TIs", "none"])
    def test_once(self, harness: Harness, states: dict[str, str]) -> None:
        dag = harness.dag(V1, states, write=V2)

        def life() -> None:
            harness.loop("the hook raises", task="D")
            harness.loops(6)

        stock, dagbump = harness.both(life)

        assert worse(stock, dagbump) == ""
        assert dagbump.by_run[dag.run]["D"] == ("success", 2)

    def test_a_run_in_which_nothing_is_unfinished_does_not_end_without_the_task(self, harness: Harness) -> None:
        dag = harness.dag(V1, DONE, write=V2)
        other = harness.dag(V1, STATES)

        def life() -> None:
            harness.loops(4, "the hook raises", task="D")
            harness.loops(4)

        stock, dagbump = harness.both(life)

        assert worse(stock, dagbump) == ""
        assert dagbump.errors == [None] * 8
        assert dagbump.by_run[dag.run]["D"] == ("success", 2)
        assert dagbump.state_of(dag) == dagbump.state_of(other) == "success"
        assert len(dagbump.warnings_of(dag)) == 1


def refuse(harness: Harness, what: str, when: str, sqlstate: str, *, times: int | None = None) -> None:
    """Let the database refuse so many writes to a table; None: every write."""
    harness.execute("CREATE SEQUENCE tries")  # which no rollback sets back
    harness.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF nextval('tries') <= {times or 1_000_000} THEN RAISE EXCEPTION 'no' USING ERRCODE = '{sqlstate}'; END IF; "
        "RETURN new; END $$"
    )
    harness.execute(f"CREATE TRIGGER refuse BEFORE {what} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION refuse()")


class TestFlush:
    """The verification of a run writes the changes that Airflow has made in the run before it."""

    @pytest.mark.parametrize("sqlstate", ["40P01", "55P03", "57014"])
    def test_fails_once(self, harness: Harness, sqlstate: str) -> None:
        first, landing, last = harness.dag(V1, STATES), harness.dag(V1, STATES, write=V2), harness.dag(V1, STATES)
        refuse(harness, "UPDATE ON dag_run", f"new.dag_id = '{first.dag_id}'", sqlstate, times=1)

        stock, dagbump = harness.both(lambda: harness.loops(6))

        assert worse(stock, dagbump) == ""
        assert dagbump.errors == [None] * 6
        assert [dagbump.state_of(dag) for dag in (first, landing, last)] == ["success"] * 3
        assert dagbump.by_run[landing.run]["D"] == ("success", 2)


class TestSavepoint:
    """A rollback to a savepoint in the loop does not undo the bump."""

    @pytest.mark.parametrize("of", ["session", "connection"])
    def test_later_runs_of_the_loop_are_verified(self, harness: Harness, of: str) -> None:
        dags = [harness.dag(V1, STATES, write=V2) for _ in range(3)]

        def life() -> None:
            harness.loop("a savepoint is rolled back", of=of)
            harness.loops(5)

        stock, dagbump = harness.both(life)

        assert worse(stock, dagbump) == ""
        assert len(dagbump.loops[0]["verified"]) == 3
        for dag in dags:
            assert dagbump.by_run[dag.run] == ABC | {"D": ("success", 2)}


class TestLookForMissingTasks:
    def test_every_run_has_its_turn(self, harness: Harness) -> None:
        dags = [harness.dag(V1, STATES) for _ in range(20)]
        for dag in dags:
            lacks(harness, dag, "C")

        def life() -> None:
            for _ in range(2):
                harness.loop()
                harness.pass_time()

        _, dagbump = harness.both(life)

        assert [dag.dag_id for dag in dags if "C" not in dagbump.by_run[dag.run]] == []

    def test_that_which_has_waited_longest_is_the_first(self, harness: Harness) -> None:
        runs = {harness.dag(V1, STATES).run for _ in range(20)}

        def life() -> None:
            for _ in range(4):
                harness.loop()
                harness.pass_time()

        _, dagbump = harness.both(life)

        looks = [set(loop["looked_at"]) for loop in dagbump.loops]
        assert [len(look) for look in looks] == [10] * 4
        assert looks[0] | looks[1] == runs
        assert looks[2:] == looks[:2]

    @pytest.mark.parametrize("updated_before", [False, True])
    def test_a_locked_version_keeps_no_other_dag_waiting(self, harness: Harness, updated_before: bool) -> None:
        dags = [harness.dag(V1, STATES) for _ in range(3)]
        for dag in dags:
            lacks(harness, dag, "C")
        locked = dags[1]

        def life() -> None:
            lock = "UPDATE dag_version SET last_updated = now() WHERE id = %s" if updated_before else ""
            version = locked.versions()[1]
            with harness.other(lock or "SELECT", *[version] * bool(lock)) as other:
                other.execute("SELECT FROM dag_version WHERE id = %s FOR UPDATE", (version,))
                harness.loop()
            found.append(["C" in dag.tis() for dag in dags])
            harness.pass_time()
            harness.loop()

        found: list[list[bool]] = []
        stock, dagbump = harness.both(life)

        assert worse(stock, dagbump) == ""
        assert found == [[False] * 3, [True, False, True]]
        assert all("C" in dagbump.by_run[dag.run] for dag in dags)


class TestLockedVersion:
    def test_a_run_that_lacks_nothing_of_it_goes_on(self, harness: Harness) -> None:
        """Stock from 3.2 on does the same: it moves no TI without a state."""
        dag = harness.dag(V1, {}, write=V1_OTHERWISE)

        def life() -> None:
            with harness.other("SELECT FROM dag_version WHERE id = %s FOR UPDATE", dag.versions()[2]):
                harness.loops(3)

        stock, dagbump = harness.both(life)

        assert worse(stock, dagbump) == ""
        assert dagbump.by_run[dag.run]["A"][0] == "success"

    def test_runs_that_wait_for_it_let_others_have_their_turn(self, harness: Harness) -> None:
        waiting = harness.dag(V1, STATES, write=V2)
        for _ in range(24):
            waiting.start_another_run()
        harness.execute("UPDATE task_instance SET dag_version_id = %s", waiting.versions()[1])
        harness.execute("DELETE FROM task_instance WHERE task_id = 'D'")
        other = harness.dag(V1, STATES)

        def life() -> None:
            with harness.other("SELECT FROM dag_version WHERE id = %s FOR UPDATE", waiting.versions()[2]):
                harness.loops(4)
            harness.loop()
            harness.loop()

        stock, dagbump = harness.both(life)

        assert worse(stock, dagbump) == ""
        assert dagbump.errors == [None] * 6
        assert [line for loop in dagbump.loops for line in loop["warned"] if "DAG disappeared" in line] == []
        assert dagbump.state_of(other) == "success"
        assert all("D" in dagbump.by_run[run["id"]] for run in dagbump.runs.values() if run["dag_id"] == waiting.dag_id)
        assert len([line for line in dagbump.lines if waiting.dag_id in line and "lock" in line]) == 1


class TestRewrittenInPlace:
    """The DAG processor rewrites a version while no TI refers to it, also while a loop verifies a run for it."""

    def test_between_any_two_statements_of_a_loop(self, harness: Harness) -> None:
        harness.worker("begin", dagbump=True)
        lost = []
        statement, statements = 0, 1
        while statement < statements:
            statement += 1
            dag = harness.dag(V1, STATES)
            dag.write(V1, description="reworded")

            loop = harness.loop(file=dag.file(V2), before_statement=statement)

            statements = loop["statements"]
            if loop["not_written"]:  # the scheduler has a lock that the DAG processor wants: it comes after the loop
                dag.write(V2)
            harness.loop()
            if "D" not in dag.tis():
                lost.append(statement)
            dag.finish()
        print(f"{statements} statements")
        assert statements > 10
        assert lost == []


class TestRemovedTask:
    """A removed TI whose task the latest version has."""

    def test_comes_back(self, harness: Harness) -> None:
        dag = harness.dag(V1, STATES)
        dag.worker("set_states", run=dag.run, states={"C": "removed"})

        stock, dagbump = harness.both(lambda: harness.loops(4))

        assert worse(stock, dagbump) == ""
        assert dagbump.by_run[dag.run]["C"] == ("success", 1)

    def test_comes_back_to_a_scheduler_that_holds_an_older_dag(self, harness: Harness) -> None:
        dag = harness.dag(V1, STATES)

        def life() -> None:
            dag.write(V1, description="reworded")
            harness.loop()  # the scheduler has read version 2
            harness.execute("UPDATE task_instance SET dag_version_id = %s", dag.versions()[1])
            dag.write(V2)
            assert sorted(dag.versions()) == [1, 2]
            dag.worker("verify_as_another_scheduler", run=dag.run)  # which has D
            harness.execute("UPDATE task_instance SET dag_version_id = %s", dag.versions()[2])
            harness.loop()
            harness.pass_time()
            harness.loops(5)

        stock, dagbump = harness.both(life)

        assert worse(stock, dagbump) == ""
        assert dagbump.by_run[dag.run]["D"] == ("success", 2)

    def test_is_restored_and_moved_in_one_loop(self, harness: Harness) -> None:
        dag = harness.dag(V1, {"A": "success", "B": "success", "C": "removed"})
        dag.write('task("A") >> task("B")')
        dag.write(V1, description="reworded")

        stock, dagbump = harness.both(harness.loop)

        assert worse(stock, dagbump) == ""
        version = max(dag.versions())
        assert dagbump.by_run[dag.run]["C"] == ("queued", version)
        (queued,) = dagbump.loops[0]["queued"]
        if RELEASE >= (3, 1):  # in 3.0 an executor does not get the version
            assert queued["dag_version_id"] == str(dagbump.tis[dag.dag_id, queued["run_id"], "C", -1]["dag_version_id"])


class TestVanishedTask:
    """A vanished task with an unfinished TI, which Airflow sets to REMOVED."""

    AB = 'task("A") >> task("B")'

    @pytest.mark.parametrize("states", [{}, {"C": "up_for_retry"}, {"C": "scheduled"}])
    def test_leaves_a_trace(self, harness: Harness, states: dict[str, str]) -> None:
        dag = harness.dag(V1, {"A": "success", "B": "success", **states}, write=self.AB)

        stock, dagbump = harness.both(lambda: harness.loops(3))

        assert worse(stock, dagbump) == ""
        self.assert_trace(dagbump, dag)

    def test_leaves_a_trace_in_a_run_that_airflow_takes_for_verified(self, harness: Harness) -> None:
        dag = harness.dag(V1, STATES)

        def life() -> None:
            harness.loop()
            dag.write(self.AB)
            bear_the_sign(harness, dag)
            harness.loops(3)

        stock, dagbump = harness.both(life)

        assert worse(stock, dagbump) == ""
        self.assert_trace(dagbump, dag)

    @staticmethod
    def assert_trace(life: Life, dag: LiveDag) -> None:
        (line,) = [line for line in life.lines if dag.dag_id in line]
        assert "C" in line.replace(",", " ").replace(".", " ").split()
        assert life.metrics["dagbump.vanished_tasks"] == 1


class TestAttacks:
    """Somebody does to the database what makes dagbump fail, and undoes it."""

    BUMP = "dagbump.bump(bigint[], text[], integer, boolean, boolean, text)"
    GRANT = "SELECT dagbump.grant_operator('{role}')"

    @pytest.fixture
    def role(self, harness: Harness) -> Iterator[str]:
        """A role that does not own Airflow's tables."""
        role = "dagbump_test_scheduler"
        harness.execute(f"DROP ROLE IF EXISTS {role}")
        harness.execute(f"CREATE ROLE {role}")
        yield role
        harness.reconnect()
        harness.execute(f"DROP OWNED BY {role}")
        harness.execute(f"DROP ROLE {role}")

    @staticmethod
    def schedule_as(harness: Harness, role: str) -> None:
        for what in ("ALL TABLES", "ALL SEQUENCES"):
            harness.execute(f"GRANT ALL ON {what} IN SCHEMA public TO {role}")
        harness.execute("SELECT dagbump.grant_operator(%s)", role)
        harness.set_for_all("role", role)

    def test_an_operator_can_do_all_that_the_plugin_does(self, harness: Harness, role: str) -> None:
        lacking, landing = harness.dag(V1, STATES), harness.dag(V1, STATES, write=V2)
        lacks(harness, lacking, "C")

        def life() -> None:
            self.schedule_as(harness, role)
            with harness.other("SELECT FROM task_instance WHERE task_id = 'B' FOR UPDATE"):
                harness.loop()
                harness.pass_time()
                harness.loop()
            harness.loops(5)

        stock, dagbump = harness.both(life)

        assert worse(stock, dagbump) == ""
        assert [line for line in dagbump.lines if line.startswith("WARNING") and "are locked by pid" not in line] == []
        assert dagbump.by_run[lacking.run]["C"][0] == "success"
        assert dagbump.by_run[landing.run]["D"] == ("success", 2)

    @pytest.mark.parametrize(
        ("attack", "undo"),
        [
            ("SELECT dagbump.revoke_operator('{role}')", GRANT),
            ("REVOKE USAGE ON SCHEMA dagbump FROM {role}", GRANT),
            ("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA dagbump FROM {role}", GRANT),
            ("REVOKE EXECUTE ON FUNCTION dagbump.verify_scope(bigint[]) FROM {role}", GRANT),
            ("REVOKE EXECUTE ON FUNCTION dagbump.take_version(uuid, text, text, uuid[], boolean) FROM {role}", GRANT),
            ("ALTER SCHEMA dagbump RENAME TO away", "ALTER SCHEMA away RENAME TO dagbump"),
            ("ALTER FUNCTION {bump} RENAME TO away", "ALTER FUNCTION {away} RENAME TO bump"),
            ("ALTER TABLE dagbump.history RENAME TO away", "ALTER TABLE dagbump.away RENAME TO history"),
        ],
    )
    def test_that_is_undone(self, harness: Harness, role: str, attack: str, undo: str) -> None:
        names = {"role": role, "bump": self.BUMP, "away": self.BUMP.replace("bump(", "away(")}
        during, after = harness.dag(V1, STATES, write=V2), harness.dag(V1, STATES)
        lacks(harness, after, "C")

        def life() -> None:
            self.schedule_as(harness, role)
            harness.execute(attack.format(**names))
            for _ in range(3):
                harness.loop()
            harness.pass_time()
            harness.loop()
            harness.execute(undo.format(**names))
            after.write(V2)
            harness.pass_time()
            harness.loops(6)

        stock, dagbump = harness.both(life)

        assert worse(stock, dagbump) == ""
        assert dagbump.errors == [None] * 10
        warnings = [line for line in dagbump.lines if line.startswith("WARNING")]
        assert len(warnings) == 1, warnings
        assert dagbump.lines.count("INFO: dagbump works again") <= 1
        assert dagbump.by_run[during.run]["D"][0] == "success"
        assert dagbump.by_run[after.run] == {"A": ("success", 1)} | dict.fromkeys("BCD", ("success", 2))

    def test_in_every_other_loop_is_no_flood(self, harness: Harness) -> None:
        harness.dag(V1, STATES)

        def life() -> None:
            for _ in range(2):
                for _ in range(5):
                    harness.execute("ALTER SCHEMA dagbump RENAME TO away")
                    harness.loop()
                    harness.execute("ALTER SCHEMA away RENAME TO dagbump")
                    harness.loop()
                harness.pass_time()

        _, dagbump = harness.both(life)

        assert [line.partition(": ")[0] for line in dagbump.lines] == ["WARNING", "INFO"] * 2
        assert dagbump.metrics["dagbump.fallback"] == 10

    def test_a_call_that_fails_slowly_does_not_slow_each_loop_down(self, harness: Harness) -> None:
        dag = harness.dag(V1, STATES, write=V2)

        def life() -> None:
            harness.execute("CREATE SEQUENCE calls")  # which no rollback sets back
            harness.execute(f"ALTER FUNCTION {self.BUMP} RENAME TO away")
            harness.execute(
                "CREATE FUNCTION dagbump.bump(dag_run_ids bigint[], caller_verifies boolean, report_all boolean,"
                " caller text) RETURNS SETOF dagbump.history LANGUAGE plpgsql AS"
                " $$ BEGIN PERFORM nextval('public.calls'), pg_sleep(60); END $$"
            )
            harness.set_for_all("statement_timeout", "1s")
            for _ in range(5):
                harness.loop()
            harness.pass_time()
            harness.loops(5)

        stock, dagbump = harness.both(life)

        assert worse(stock, dagbump) == ""
        assert harness.execute("SELECT last_value FROM calls").fetchone() == (2,)
        assert len(dagbump.lines) == 1
        assert dagbump.by_run[dag.run]["D"][0] == "success"

    def test_a_newer_revision_adds_what_this_package_does_not_know(self, harness: Harness) -> None:
        dag = harness.dag(V1, STATES, write=V2)

        def life() -> None:
            ((bump,),) = harness.execute("SELECT pg_get_functiondef(%s::regprocedure)", self.BUMP).fetchall()
            harness.execute(f"DROP FUNCTION {self.BUMP}")
            bump = bump.replace("RETURNS TABLE(", "RETURNS TABLE(more_columns text, ")
            harness.execute(bump.replace("(dag_run_ids", "(more_arguments text DEFAULT 'any', dag_run_ids", 1))
            harness.loops(5)

        stock, dagbump = harness.both(life)

        assert worse(stock, dagbump) == ""
        assert dagbump.lines == []
        assert dagbump.by_run[dag.run] == ABC | {"D": ("success", 2)}


class TestSessionsEnd:
    """Somebody ends the scheduler's sessions: pg_terminate_backend, a pooler, idle_in_transaction_session_timeout."""

    def test_before_any_statement_of_a_loop(self, harness: Harness) -> None:
        """Where a loop of stock Airflow goes on, so does one with dagbump; and no task is lost."""
        lost: list[int] = []
        raised: list[set[str]] = []

        def life() -> None:
            raised.append(set())
            for statement in count(1):
                dag = harness.dag(V1, STATES, write=V2)
                loop = harness.loop(before_statement=statement, sessions_end=True)
                if loop["error"]:
                    raised[-1].add(loop["interrupted"])
                harness.loop()
                if "D" not in dag.tis():
                    lost.append(statement)
                dag.finish()
                if not loop["interrupted"]:  # it has fewer statements
                    break
            print(f"{statement} statements, a loop is left before {len(raised[-1])} of them")
            assert statement > 20

        harness.both(life)

        stock, dagbump = raised
        assert lost == []
        assert dagbump - stock == set()


class TestExceptions:
    """An exception at each call of the plugin that can fail."""

    # Functions that Airflow calls in a loop too, so that they raise on stock too.
    AIRFLOWS_OWN = (
        "._check_for_removed_or_restored_tasks",
        "._get_dag",
        ".check_version_id_exists_in_dr",
        ".get_dag",
        ".get_dag_for_run",
        ".verify_integrity",
        "sqlalchemy.orm.session.commit",
    )

    @pytest.fixture
    def lacking(self, harness: Harness) -> LiveDag:
        """Make a run that lacks a task although Airflow takes it for verified, beside a landing and a steady run."""
        wide = 'task("A") >> task("B") >> [task("C"), task("D")]'
        harness.dag(V1, STATES, write=wide)
        lacking = harness.dag(V1, STATES, write=wide)
        bear_the_sign(harness, lacking)
        harness.dag(V1, STATES)
        harness.save()
        return lacking

    @pytest.fixture
    def calls(self, harness: Harness, lacking: LiveDag) -> list[str]:
        """Return the calls; in loops in which nothing goes wrong."""
        life = harness.live(loops(harness, lacking, "calls of the plugin"), dagbump=True)
        calls = list(dict.fromkeys(call for loop in life.loops for call in loop["extra"]))
        print(f"{len(calls)} calls", *calls, sep="\n")
        return calls

    @pytest.mark.parametrize(
        ("error", "when", "how_often"),
        [
            ("RuntimeError", "at its beginning", "always"),
            ("RuntimeError", "at its end", "once"),
            ("OperationalError", "at its beginning", "always"),  # Airflow tries the loop again
        ],
    )
    def test_leave_no_run_worse_off(
        self, harness: Harness, lacking: LiveDag, calls: list[str], error: str, when: str, how_often: str
    ) -> None:
        stock = harness.live(loops(harness, lacking), dagbump=False)
        failures = []
        for call in calls:
            fault = {
                "fault": "a call raises",
                "call": call,
                "error": error,
                "when": when,
                "how_often": how_often,
            }
            theirs = stock
            if call.endswith(self.AIRFLOWS_OWN):
                theirs = harness.live(loops(harness, lacking, **fault, on_stock=True), dagbump=False)
            ours = harness.live(loops(harness, lacking, **fault, on_stock=False), dagbump=True)
            assert any(loop["extra"] for loop in ours.loops)
            if how := worse(theirs, ours):
                failures.append(f"{call}:\n{how}")
        assert failures == [], "\n".join(failures)


def loops(
    harness: Harness, lacking: LiveDag, fault: str | None = None, how_often: str = "always", **options: Any
) -> Callable[[], None]:
    """Return a life of five loops. In the first two, another transaction has locked a stale TI."""

    def loop() -> None:
        if how_often == "once" and any(loop["extra"] for loop in harness.life.loops):
            harness.loop()
        else:
            harness.loop(fault, **options, **({"how_often": how_often} if options else {}))

    def life() -> None:
        for _ in range(2):  # in the second one, it is asked who that is
            with harness.other(
                "SELECT FROM task_instance WHERE (dag_id, task_id) = (%s, 'B') FOR UPDATE", lacking.dag_id
            ):
                loop()
            harness.pass_time()
        for _ in range(3):
            harness.finish_tasks()
            loop()

    return life
