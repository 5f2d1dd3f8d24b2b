"""The tab of the runs: a sentence about them, what is the matter and what to do, and a table of one page of runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import sqlalchemy as sa

from dagbump import client
from dagbump.airflow_plugin.page.advice import Reason, commands_for, reasons
from dagbump.airflow_plugin.page.answers import Answer, answer_of, searched_in
from dagbump.airflow_plugin.page.filter import Filter
from dagbump.airflow_plugin.page.moving import Plan
from dagbump.airflow_plugin.page.overview import Kind, overview
from dagbump.airflow_plugin.page.paging import Slice
from dagbump.airflow_plugin.page.plugin_state import PluginState, plugin_state
from dagbump.airflow_plugin.page.tasks import Task, tasks_of
from dagbump.airflow_plugin.page.words import verdict_of
from dagbump.results import Holder, RunningRun, RunPreview, VersionOfRun
from dagbump.verdicts import FINE, GONE, VERDICTS, Verdict
from dagbump.wording import by_transaction, counted, describe_holder, how_to_end

_VERSIONS_IN_FULL = 4


@dataclass(frozen=True)
class Lock:
    """What one transaction has locked in a run.

    Attributes:
        what: what is locked, and by whom, in words.
        advice: what to do if the transaction does not end; empty if it cannot be found.
        command: a statement for that.
    """

    what: str
    advice: str
    command: str


@dataclass(frozen=True)
class Run:
    """A run in the table.

    Attributes:
        row: its row of dagbump.running.
        verdict: the texts for its verdict.
        versions: the versions of its unfinished task instances, for example ``none, 3``.
        states: the states of its stale task instances, for example ``12 scheduled, 1 no status``.
        tasks: how many of its tasks are missing or have vanished, in words.
        locks: what other transactions have locked in it.
        opened: one page of the stale, missing and vanished tasks if the run is open; otherwise None.
    """

    row: RunningRun
    verdict: Verdict
    versions: str
    states: str
    tasks: Sequence[str]
    locks: Sequence[Lock]
    opened: Slice[Task] | None


@dataclass(frozen=True)
class Choice:
    """A verdict in the filter's list, with the number of its runs."""

    name: str
    label: str
    runs: int


@dataclass(frozen=True)
class RunsTab:
    """The contents of the tab.

    Attributes:
        answer: the summary of what is shown.
        searched: what a search has found, in sentences.
        plugin: whether the scheduler's part of the plugin is on.
        filter: what the viewer wants to see.
        choices: the verdicts of all runs that the search finds.
        runs: the page of runs.
        editable: those DAGs of `judged_dag_ids` that the viewer may edit.
    """

    answer: Answer
    searched: Sequence[str]
    plugin: PluginState
    filter: Filter
    choices: Sequence[Choice]
    runs: Slice[Run]
    editable: Collection[str] = field(default=())

    def for_editor_of(self, editable: Collection[str]) -> RunsTab:
        """Return the tab for a viewer who may edit these DAGs; they are a part of `judged_dag_ids`."""
        return replace(self, editable=editable)

    @property
    def judged_dag_ids(self) -> set[str]:
        """The DAGs of the runs with a verdict on this page. The page says other things to users who may edit them."""
        return {run.row.dag_id for run in self.runs.rows if run.row.verdict}

    @property
    def plan(self) -> Plan:
        """What the button moves."""
        return Plan([run.row for run in self.runs.rows if _is_movable(run.row) and run.row.dag_id in self.editable])

    @property
    def offers_all(self) -> bool:
        """Whether other pages may have something for this viewer to move."""
        listed = (choice.name for choice in self.choices if self.filter.verdict in {"", choice.name})
        others = self.runs.pages > 1 and any(verdict_of(name).is_moved for name in listed)
        movable_here = {run.row.dag_id for run in self.runs.rows if _is_movable(run.row)}
        return others and (not movable_here or not movable_here.isdisjoint(self.editable))

    @property
    def listed_without_verdict(self) -> int:
        """The number of runs that are listed if no verdict is chosen."""
        return sum(choice.runs for choice in self.choices if self.filter.search or choice.name != FINE)

    def commands_for(self, run: Run) -> list[str]:
        """Return the commands that help with one run."""
        return commands_for(run.row.verdict or FINE, [run.row.dag_id], self.plugin)

    @property
    def reasons(self) -> list[Reason]:
        """The reasons why runs on this page are stale, and what to do."""
        rows = [run.row for run in self.runs.rows if run.row.verdict]
        return reasons(rows, self.plugin, self.editable)


def runs_tab(
    connection: sa.engine.Connection, dag_ids: Collection[str], wanted: Filter, *, some_hidden: bool
) -> RunsTab:
    """Ask dagbump about the runs of these DAGs, and return the contents of the tab.

    Args:
        connection: a transaction for dagbump's functions.
        dag_ids: the DAGs that the viewer may see.
        wanted: what the viewer wants to see.
        some_hidden: whether other DAGs have running runs.
    """
    plugin = plugin_state(connection, dag_ids)
    found = overview(connection, dag_ids, wanted)
    return RunsTab(
        answer_of(found, wanted, some_hidden=some_hidden),
        searched_in(found, wanted),
        plugin,
        wanted,
        _choices(found.kinds),
        found.runs.of(_runs(connection, plugin.now, found.runs.rows, wanted)),
    )


def _is_movable(row: RunningRun) -> bool:
    return row.stale > 0 and verdict_of(row.verdict or FINE).is_moved


def _choices(kinds: Iterable[Kind]) -> list[Choice]:
    runs: dict[str, int] = defaultdict(int)
    for kind in kinds:
        runs[kind.name] += kind.runs
    names = [*VERDICTS, *sorted(runs.keys() - VERDICTS.keys() - {FINE}), FINE]
    return [Choice(name, verdict_of(name).label, runs[name]) for name in names if runs[name]]


def _runs(connection: sa.engine.Connection, now: datetime, rows: Sequence[RunningRun], wanted: Filter) -> Iterable[Run]:
    if not rows:
        return []
    ids = [row.dag_run_id for row in rows]
    previews = {
        row.dag_run_id: row for row in client.preview(connection, [row.dag_run_id for row in rows if row.verdict])
    }
    versions = _versions(client.versions_of_runs(connection, ids))
    held = [row.dag_run_id for row in rows if row.stale and verdict_of(row.verdict or FINE).may_be_locked]
    locks: Mapping[int, list[Holder]] = _by_run(client.holders(connection, held) if held else ())
    return [
        Run(
            row,
            verdict_of(row.verdict or FINE),
            versions.get(row.dag_run_id, ""),
            _states(previews.get(row.dag_run_id)),
            _tasks(row, previews.get(row.dag_run_id)),
            [_lock(group, now) for group in by_transaction(locks.get(row.dag_run_id, ()))],
            tasks_of(connection, row, locks.get(row.dag_run_id, ()), wanted) if row.dag_run_id == wanted.open else None,
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


# A run may have been bumped since the rows were read. Then it has no preview.


def _states(preview: RunPreview | None) -> str:
    stale_by_state = preview.stale_by_state if preview else {}
    most_first = sorted(stale_by_state.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{number:,} {state.replace('no_status', 'no status')}" for state, number in most_first)


def _tasks(row: RunningRun, preview: RunPreview | None) -> list[str]:
    if row.verdict == GONE:
        return [f"{row.missing_or_vanished:,} gone"]
    if preview is None:
        return []
    if preview.missing_tasks is None or preview.vanished_tasks is None:
        return ["cannot be read"]
    told = {"missing": len(preview.missing_tasks), "gone": len(preview.vanished_tasks)}
    return [f"{number:,} {what}" for what, number in told.items() if number]


def _by_run(holders: Iterable[Holder]) -> dict[int, list[Holder]]:
    found: dict[int, list[Holder]] = defaultdict(list)
    for holder in holders:
        found[holder.dag_run_id].append(holder)
    return found


def _lock(rows: Sequence[Holder], now: datetime) -> Lock:
    what = "the latest version itself" if rows[0].held == "dag_version" else counted(len(rows), "task instance")
    return Lock(f"{what} locked by {describe_holder(rows[0], now)}", *how_to_end(rows[0]))
