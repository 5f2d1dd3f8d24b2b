"""What is the matter with runs, and what to do, by what the reader may do and whether the plugin is on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from dagbump.airflow_plugin.page.plugin_state import PluginState
from dagbump.results import RunningRun
from dagbump.verdicts import VERDICTS, Verdict, verdict_of

# For more DAGs, the page would be full of commands. Each open run has its own.
_COMMANDS_AT_MOST = 3


@dataclass(frozen=True)
class Reason:
    """What is the matter with all runs of one verdict on this page.

    Attributes:
        verdict: its texts.
        runs: how many runs on this page have it.
        advice: what happens next, or what to do.
        commands: commands that help; none if nothing has to be done, or if they are for too many DAGs.
    """

    verdict: Verdict
    runs: int
    advice: str
    commands: Sequence[str]


def reasons(rows: Collection[RunningRun], plugin: PluginState, editable: Collection[str]) -> list[Reason]:
    """Return a reason for each verdict of these runs, the most urgent first.

    Args:
        rows: the runs of a page that have a verdict.
        plugin: whether the scheduler's part of the plugin is on.
        editable: the DAGs whose runs the reader may move.
    """
    found = {row.verdict or "" for row in rows}
    names = [name for name in VERDICTS if name in found] + sorted(found - VERDICTS.keys())
    return [_reason(name, [row for row in rows if row.verdict == name], plugin, editable) for name in names]


def commands_for(verdict: Verdict, dag_ids: Iterable[str], plugin: PluginState) -> list[str]:
    """Return the commands that help with these DAGs, each once."""
    told = (verdict.command_for(dag_id, plugin_is_on=plugin.is_on is True) for dag_id in dag_ids)
    return list(dict.fromkeys(command for command in told if command))


def _reason(name: str, rows: Sequence[RunningRun], plugin: PluginState, editable: Collection[str]) -> Reason:
    verdict = verdict_of(name)
    commands = commands_for(verdict, sorted({row.dag_id for row in rows}), plugin)
    advice = verdict.next(plugin_is_on=plugin.is_on is True)
    if name == "bump" and plugin.is_on is not True:
        mine = {row.dag_id for row in rows} & set(editable)
        advice = _TO_MOVE if mine else _NOT_TO_MOVE
    return Reason(verdict, len(rows), advice, commands if len(commands) <= _COMMANDS_AT_MOST else ())


_TO_MOVE = "The button below moves them, and so does `dagbump bump`. What another transaction has locked stays."
_NOT_TO_MOVE = (
    "You may not edit these DAGs, so you have no button. Ask somebody who may edit them and their runs to open this "
    "page; or, with access to the database, run `dagbump bump`. What another transaction has locked stays."
)
