"""The tab of the runs: a sentence about all runs, and a table of the runs with problems, with reason and advice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby

import sqlalchemy as sa

from dagbump import client
from dagbump.airflow_plugin.page.paging import Slice, cut
from dagbump.airflow_plugin.page.plugin_state import PluginState, plugin_state
from dagbump.results import Holder, RunningTotals, RunPreview, VersionOfRun
from dagbump.verdicts import VERDICTS, Verdict, verdict_of
from dagbump.wording import by_transaction, counted, describe_holder

PER_PAGE = 50
_VERSIONS_IN_FULL = 4


@dataclass(frozen=True)
class Filter:
    """The user's filter.

    Attributes:
        dag: a part of the DAG's id, in any case.
        verdict: the name of a verdict; empty for all verdicts.
        page: the number of the page, from 1.
    """

    dag: str = ""
    verdict: str = ""
    page: int = 1

    def passes(self, row: RunPreview) -> bool:
        """Return whether a run matches the filter."""
        return self.names(row) and self.verdict in {"", row.verdict}

    def names(self, row: RunPreview) -> bool:
        """Return whether a run's DAG matches the filter."""
        return self.dag.casefold() in row.dag_id.casefold()


@dataclass(frozen=True)
class Answer:
    """The summary of all runs.

    Attributes:
        sentence: says whether all task instances are on the latest version.
        tone: ``good``, ``waiting`` or ``wrong``.
        details: more sentences, each about one kind of runs.
    """

    sentence: str
    tone: str
    details: Sequence[str] = ()


@dataclass(frozen=True)
class Run:
    """A run in the table.

    Attributes:
        row: its row of dagbump.preview.
        verdict: the texts for its verdict.
        next: what happens next, or what to do.
        versions: the versions of its unfinished task instances, for example ``none, 3``.
        states: the states of its stale task instances, for example ``12 scheduled, 1 no status``.
        holders: the transactions that have locked its rows, in words.
        movable: whether a bump moves some of its task instances. After `RunsTab.for_editor_of`, also whether the viewer
            may bump it.
    """

    row: RunPreview
    verdict: Verdict
    next: str
    versions: str
    states: str
    holders: Sequence[str]
    movable: bool


@dataclass(frozen=True)
class Choice:
    """A verdict in the filter's list, with the number of its runs."""

    name: str
    label: str
    runs: int


@dataclass(frozen=True)
class RunsTab:
    """The contents of the tab."""

    answer: Answer
    plugin: PluginState
    filter: Filter
    choices: Sequence[Choice]
    runs: Slice[Run]

    def for_editor_of(self, editable: Collection[str]) -> RunsTab:
        """Return the tab for a viewer who may edit these DAGs; they are a part of `movable_dag_ids`."""
        runs = [replace(run, movable=run.movable and run.row.dag_id in editable) for run in self.runs.rows]
        return replace(self, runs=self.runs.of(runs))

    @property
    def movable_dag_ids(self) -> set[str]:
        """The DAGs whose editors get the button."""
        return {run.row.dag_id for run in self.movable}

    @property
    def movable(self) -> list[Run]:
        """The runs in which the button moves task instances."""
        return [run for run in self.runs.rows if run.movable]

    @property
    def groups(self) -> list[list[Run]]:
        """The runs grouped by verdict; they are sorted by verdict already."""
        return [list(runs) for _, runs in groupby(self.runs.rows, key=lambda run: run.row.verdict)]

    @property
    def movable_task_instances(self) -> int:
        """The number of task instances that the button moves if none is locked."""
        return sum(run.row.stale for run in self.movable)


def runs_tab(connection: sa.engine.Connection, dag_ids: Collection[str], wanted: Filter) -> RunsTab:
    """Ask dagbump about the runs of these DAGs, and return the contents of the tab."""
    plugin = plugin_state(connection, dag_ids)
    running = client.running(connection, dag_ids)
    rows = sorted(client.preview(connection, dag_ids=dag_ids), key=_urgency)
    named = [row for row in rows if wanted.names(row)]
    shown = cut([row for row in named if wanted.passes(row)], wanted.page, PER_PAGE)
    return RunsTab(
        answer_of(running, rows),
        plugin,
        wanted,
        _choices(named),
        shown.of(_runs(connection, plugin, shown.rows)),
    )


def _urgency(row: RunPreview) -> int:
    names = list(VERDICTS)
    return names.index(row.verdict) if row.verdict in names else len(names)


def answer_of(running: RunningTotals, rows: Sequence[RunPreview]) -> Answer:
    """Return the summary of all runs."""
    if not running.dag_runs:
        return Answer("No DAG run is running.", "good", ["There is nothing to keep on the latest version."])
    runs = counted(running.dag_runs, "running run")
    if not rows:
        return Answer(
            f"{_all_of(running.task_instances)} of {runs} {_are_on_the_latest(running.task_instances)}", "good"
        )
    stale = sum(row.stale for row in rows)
    behind = sum(row.stale > 0 for row in rows)
    tone = "wrong" if any(verdict_of(row.verdict).tone == "wrong" for row in rows) else "waiting"
    if stale:
        sentence = (
            f"{stale:,} of {counted(running.task_instances, 'unfinished task instance')} "
            f"{'is' if stale == 1 else 'are'} not on the latest version of "
            f"{'its' if stale == 1 else 'their'} DAG, in {behind:,} of {runs}."
        )
    else:
        sentence = f"{_all_of(running.task_instances)} of {runs} {_are_on_the_latest(running.task_instances)}"
    return Answer(sentence, tone, list(_details(rows)))


def _all_of(number: int) -> str:
    if number == 1:
        return "The one unfinished task instance"
    return f"All {number:,} unfinished task instances" if number else "No task instance"


def _are_on_the_latest(number: int) -> str:
    if not number:
        return "is unfinished."
    return f"{'is' if number == 1 else 'are'} on the latest version of {'its' if number == 1 else 'their'} DAG."


def _details(rows: Iterable[RunPreview]) -> Iterable[str]:
    by_verdict: dict[str, int] = defaultdict(int)
    for row in rows:
        by_verdict[row.verdict] += 1
    if runs := by_verdict["missing_tasks"]:
        yield f"{counted(runs, 'run')} {'lacks' if runs == 1 else 'lack'} tasks."
    if runs := by_verdict["needs_verify"]:
        yield f"{counted(runs, 'run')} {'has' if runs == 1 else 'have'} yet to be verified by the scheduler."
    if runs := by_verdict["versionless"]:
        yield f"{counted(runs, 'run')} {'has' if runs == 1 else 'have'} task instances on no version at all."
    if meant := sum(number for name, number in by_verdict.items() if verdict_of(name).tone == "idle"):
        left_alone = "is left alone" if meant == 1 else "are left alone"
        yield f"{counted(meant, 'run')} {left_alone}: pinned, paused, not due, or without a DAG."


def _choices(rows: Iterable[RunPreview]) -> list[Choice]:
    runs: dict[str, int] = defaultdict(int)
    for row in rows:
        runs[row.verdict] += 1
    return [
        Choice(name, verdict_of(name).label, runs[name])
        for name in (*VERDICTS, *(runs.keys() - VERDICTS.keys()))
        if runs[name]
    ]


def _runs(connection: sa.engine.Connection, plugin: PluginState, rows: Sequence[RunPreview]) -> Iterable[Run]:
    if not rows:
        return []
    versions = _versions(client.versions_of_runs(connection, [row.dag_run_id for row in rows]))
    held = [row.dag_run_id for row in rows if row.stale and verdict_of(row.verdict).may_be_locked]
    holders = _holders(client.holders(connection, held) if held else (), plugin.now)
    return [
        Run(
            row,
            verdict := verdict_of(row.verdict),
            verdict.next(plugin_is_on=plugin.is_on is True),
            versions.get(row.dag_run_id, ""),
            _states(row.stale_by_state),
            holders.get(row.dag_run_id, ()),
            verdict.is_moved and row.stale > 0,
        )
        for row in rows
    ]


def _versions(rows: Iterable[VersionOfRun]) -> Mapping[int, str]:
    found: dict[int, list[str]] = defaultdict(list)
    for row in rows:
        found[row.dag_run_id].append("none" if row.version_number is None else str(row.version_number))
    return {run: _shortened(versions) for run, versions in found.items()}


def _shortened(versions: Sequence[str]) -> str:
    return ", ".join(versions if len(versions) <= _VERSIONS_IN_FULL else (*versions[:2], "…", versions[-1]))


def _states(stale_by_state: Mapping[str, int]) -> str:
    most_first = sorted(stale_by_state.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{number:,} {state.replace('no_status', 'no status')}" for state, number in most_first)


def _holders(rows: Collection[Holder], now: datetime) -> Mapping[int, list[str]]:
    told: dict[int, list[str]] = defaultdict(list)
    for group in by_transaction(rows):
        told[group[0].dag_run_id].append(_holder(group, now))
    return told


def _holder(rows: Sequence[Holder], now: datetime) -> str:
    what = "the latest version itself" if rows[0].held == "dag_version" else counted(len(rows), "task instance")
    return f"{what} locked by {describe_holder(rows[0], now)}"
