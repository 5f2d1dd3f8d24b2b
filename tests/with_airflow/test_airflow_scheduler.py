"""dagbump inside real schedulers: `airflow scheduler` with the plugin, and DAG files that change under running runs.

The release is `environments.release`. All tests share one deployment
(support/releases/deployment.py), whose DAG processor and API server run throughout; each starts its own schedulers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import pytest
from support.releases import environments
from support.releases.deployment import Component, Deployment, deployment_of
from support.releases.live_dag import Tis
from support.releases.load import LANDINGS, RUNS, Load
from support.server import Server

pytestmark = pytest.mark.airflow

ON = "is on: one dagbump.bump per scheduler loop"
STAYS_OFF = "dagbump stays off"
HAS_FAILED = "dagbump has failed"
WORKS_AGAIN = "dagbump works again"


@pytest.fixture(scope="module")
def deployment(
    postgres: Server, airflow_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    home = tmp_path_factory.mktemp("deployment")
    with (
        postgres.temporary_database(airflow_template) as url,
        deployment_of(environments.release(), url, home) as deployment,
    ):
        deployment.land("plain.py", "plain", {"plain": 'task("A") >> empty("B")'})
        yield deployment


@dataclass(frozen=True)
class Change:
    """A DAG with a task B that runs while another version lands."""

    before: str
    after: str
    waiting: str = "B"


CHANGES = {
    "gains_a_task": Change(
        before='task("A") >> task("B", WAIT) >> task("C")',
        after='task("A") >> task("B", WAIT) >> task("C") >> task("D")',
    ),
    "has_a_chain_left": Change(
        before='empty("A") >> task("B", WAIT) >> task("C") >> empty("E") >> empty("F") >> empty("G")',
        after='empty("A") >> task("B", WAIT) >> task("C") >> empty("E") >> empty("F") >> empty("G") >> empty("D")',
    ),
    "is_mapped": Change(
        before='mapped("B", ["true", WAIT]) >> mapped("C", ["true"] * 2)',
        after='mapped("B", ["true", WAIT]) >> mapped("C", ["true"] * 2) >> empty("D")',
        waiting="B[1]",
    ),
    "loses_a_task": Change(
        before='empty("A") >> task("B", WAIT) >> empty("C") >> empty("D")',
        after='empty("A") >> task("B", WAIT) >> empty("C")',
    ),
    "renames_a_task": Change(
        before='empty("A") >> task("B", WAIT) >> empty("C") >> empty("E")',
        after='empty("A") >> task("B", WAIT) >> empty("D") >> empty("E")',
    ),
    "changes_no_task": Change(
        before='empty("A") >> task("B", WAIT) >> empty("C")',
        after='empty("A") >> task("B", WAIT) >> empty("C")',
    ),
}


@dataclass
class Play:
    """The run of each DAG of `CHANGES`, under one scheduler.

    Attributes:
        before: its task instances while B ran on the only version.
        landed: the same while B still ran, some time after the second version had landed.
        after: the same when the run had ended.
        states: how it ended.
    """

    scheduler: Component
    before: dict[str, Tis] = field(default_factory=dict)
    landed: dict[str, Tis] = field(default_factory=dict)
    after: dict[str, Tis] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def play(deployment: Deployment) -> Play:
    """All of `CHANGES` at the same time: most of the time goes into waiting for processes to start."""
    deployment.install()
    _land(deployment, "before")
    with deployment.scheduler(dagbump=True) as scheduler:
        runs = {dag_id: deployment.create_run(dag_id) for dag_id in CHANGES}

        def tis() -> dict[str, Tis]:
            return {dag_id: deployment.tis(run) for dag_id, run in runs.items()}

        play = Play(scheduler)
        deployment.until(lambda: _all_wait(tis()), "B runs in every DAG, and all before it has ended")
        play.before = tis()
        _land(deployment, "after")
        deployment.until(lambda: _none_is_on_v1(tis()), "no unfinished task instance is on the first version")
        play.landed = tis()
        deployment.go()
        deployment.until_ended(*runs.values())
        play.after = tis()
        play.states = {dag_id: deployment.state_of(run) for dag_id, run in runs.items()}
    return play


def _land(deployment: Deployment, when: str) -> None:
    deployment.land("changes.py", when, {dag_id: getattr(change, when) for dag_id, change in CHANGES.items()})


def _all_wait(tis: Mapping[str, Tis]) -> bool:
    return all(
        tis[dag_id][change.waiting][0] == "running" and tis[dag_id].get("B[0]", ("success",))[0] == "success"
        for dag_id, change in CHANGES.items()
    )


def _none_is_on_v1(tis: Mapping[str, Tis]) -> bool:
    return not any(
        state in {None, "running"} and version == 1 for run in tis.values() for state, version in run.values()
    )


class TestAVersionThatLandsWhileATaskRuns:
    def test_every_run_succeeds(self, play: Play) -> None:
        assert play.states == dict.fromkeys(CHANGES, "success")

    def test_dagbump_is_on_and_does_not_fail(self, play: Play) -> None:
        assert len(play.scheduler.logged(ON)) == 1
        assert play.scheduler.logged(STAYS_OFF) == []
        assert play.scheduler.logged(HAS_FAILED) == []

    def test_what_has_not_ended_runs_on_the_version_that_adds_a_task(self, play: Play) -> None:
        assert play.before["gains_a_task"] == {"A": ("success", 1), "B": ("running", 1), "C": (None, 1)}
        assert play.landed["gains_a_task"] == {
            "A": ("success", 1),
            "B": ("running", 2),
            "C": (None, 2),
            "D": (None, 2),
        }
        assert play.after["gains_a_task"] == {
            "A": ("success", 1),
            "B": ("success", 2),
            "C": ("success", 2),
            "D": ("success", 2),
        }

    def test_of_a_chain_of_tasks_that_have_no_state_yet_all_move(self, play: Play) -> None:
        not_scheduled = ("C", "E", "F", "G")
        assert {task: play.before["has_a_chain_left"][task] for task in not_scheduled} == dict.fromkeys(
            not_scheduled, (None, 1)
        )
        assert {task: play.landed["has_a_chain_left"][task] for task in not_scheduled} == dict.fromkeys(
            not_scheduled, (None, 2)
        )
        assert play.after["has_a_chain_left"] == {
            "A": ("success", 1),
            **dict.fromkeys(("B", *not_scheduled, "D"), ("success", 2)),
        }

    def test_of_a_mapped_task_the_unfinished_ones_move(self, play: Play) -> None:
        assert play.before["is_mapped"] == {
            "B[0]": ("success", 1),
            "B[1]": ("running", 1),
            "C[0]": (None, 1),
            "C[1]": (None, 1),
        }
        assert play.after["is_mapped"] == {
            "B[0]": ("success", 1),
            **dict.fromkeys(("B[1]", "C[0]", "C[1]", "D"), ("success", 2)),
        }

    def test_a_task_that_is_gone_is_removed(self, play: Play) -> None:
        assert play.before["loses_a_task"] == {
            "A": ("success", 1),
            "B": ("running", 1),
            "C": (None, 1),
            "D": (None, 1),
        }
        assert play.after["loses_a_task"] == {
            "A": ("success", 1),
            "B": ("success", 2),
            "C": ("success", 2),
            "D": ("removed", 2),
        }

    def test_a_task_that_is_renamed_runs_under_its_new_name(self, play: Play) -> None:
        assert play.after["renames_a_task"] == {
            "A": ("success", 1),
            "B": ("success", 2),
            "C": ("removed", 2),
            "D": ("success", 2),
            "E": ("success", 2),
        }

    def test_a_version_that_changes_no_task_is_moved_to_as_well(self, play: Play) -> None:
        assert play.landed["changes_no_task"] == {"A": ("success", 1), "B": ("running", 2), "C": (None, 2)}
        assert play.after["changes_no_task"] == {"A": ("success", 1), "B": ("success", 2), "C": ("success", 2)}


class TestWhatDoesNotFit:
    """The scheduler works without dagbump, and says so once."""

    def test_off_by_default(self, deployment: Deployment) -> None:
        deployment.install()
        with deployment.scheduler() as scheduler:
            assert deployment.run("plain") == "success"

        assert scheduler.logged("dagbump ") == []

    def test_dagbump_is_not_installed(self, deployment: Deployment) -> None:
        deployment.remove()
        with deployment.scheduler(dagbump=True) as scheduler:
            assert deployment.run("plain") == "success"

        (warning,) = scheduler.logged("dagbump ")
        assert STAYS_OFF in warning

    def test_the_database_holds_another_revision(self, deployment: Deployment) -> None:
        deployment.install()
        deployment.connection.execute("UPDATE dagbump.installation SET revision = '0000'")
        with deployment.scheduler(dagbump=True) as scheduler:
            assert deployment.run("plain") == "success"

        (warning,) = scheduler.logged("dagbump ")
        assert STAYS_OFF in warning
        assert "this database holds dagbump 0000" in warning

    def test_it_is_removed_while_the_scheduler_runs_and_comes_back(self, deployment: Deployment) -> None:
        deployment.install()
        with deployment.scheduler(dagbump=True) as scheduler:
            deployment.remove()
            assert deployment.run("plain") == "success"
            on, failed = scheduler.logged("dagbump ")

            deployment.install()
            assert deployment.run("plain") == "success"

        on, failed, again = scheduler.logged("dagbump ")
        assert ON in on
        assert HAS_FAILED in failed
        assert WORKS_AGAIN in again
        assert HAS_FAILED not in again


SETTLING_SECONDS = 20.0  # with dagbump, where it takes a tenth of that
STOCK_SETTLING_SECONDS = 4.0


class TestTwoSchedulers:
    def test_with_dagbump(
        self, deployment: Deployment, capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
    ) -> None:
        deployment.install()
        load = Load(deployment, "with_dagbump", SETTLING_SECONDS)
        load.carry(dagbump=True)
        report(load, capsys, record_property)

        assert load.ended == {"success": RUNS}
        assert [stale for _, stale in load.settled] == [0] * LANDINGS
        assert sum(unfinished > 0 for unfinished, _ in load.settled) >= 3, "the runs ended before the versions landed"
        assert load.deadlocks == 0
        assert load.moved_after_their_end == 0
        assert load.ended_before_their_version == 0
        assert load.lack_tasks == 0
        assert load.versions >= 3
        for log in load.logs:
            (on,) = log
            assert ON in on

    def test_without_it_for_comparison(
        self, deployment: Deployment, capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
    ) -> None:
        load = Load(deployment, "stock", STOCK_SETTLING_SECONDS)
        load.carry(dagbump=None)
        report(load, capsys, record_property)

        assert sum(load.ended.values()) == RUNS
        assert load.logs == [[], []]


def report(load: Load, capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]) -> None:
    record_property("load", load.figures())
    with capsys.disabled():
        print(f"\nAirflow {environments.release()}, {load.figures()}")
