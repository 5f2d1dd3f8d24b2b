"""The reasons why runs are stale, and what to do, by the reader's rights and the state of the plugin."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from dagbump.airflow_plugin.page.plugin_state import PluginState
from dagbump.airflow_plugin.page.words import verdict_of
from dagbump.results import RunningRun
from dagbump.verdicts import VERDICTS, Advice, Verdict, sentence

# For more DAGs, the page would be full of commands. Each open run has its own.
_COMMANDS_AT_MOST = 3
# The page has a button for it, so nobody needs a shell.
_BUTTON = Advice(edit="press the button on this page: it moves them, except those that another transaction has locked")


@dataclass(frozen=True)
class Reason:
    """What is the matter with all runs of one verdict on this page.

    Attributes:
        verdict: its texts.
        advice: what happens next, or what to do.
        commands: commands that help; none if nothing has to be done, or if they are for too many DAGs.
    """

    verdict: Verdict
    advice: str
    commands: Sequence[str]


def reasons(rows: Collection[RunningRun], plugin: PluginState, editable: Collection[str]) -> list[Reason]:
    """Return a reason for each verdict of these runs, the most urgent first.

    Args:
        rows: the runs of a page that have a verdict.
        plugin: whether the scheduler's part of the plugin is on.
        editable: the DAGs that the reader may edit, together with their runs.
    """
    found = {row.verdict or "" for row in rows}
    names = [name for name in VERDICTS if name in found] + sorted(found - VERDICTS.keys())
    return [_reason(name, {row.dag_id for row in rows if row.verdict == name}, plugin, editable) for name in names]


def commands_for(name: str, dag_ids: Iterable[str], plugin: PluginState) -> list[str]:
    """Return the commands that help with runs of a verdict in these DAGs, each once."""
    told = (_advice_on_page(name, plugin).command_for(dag_id) for dag_id in dag_ids)
    return list(dict.fromkeys(command for command in told if command))


def _reason(name: str, dag_ids: set[str], plugin: PluginState, editable: Collection[str]) -> Reason:
    commands = commands_for(name, sorted(dag_ids), plugin)
    advice = _told(_advice_on_page(name, plugin), may_edit=not dag_ids.isdisjoint(editable))
    return Reason(verdict_of(name), advice, commands if len(commands) <= _COMMANDS_AT_MOST else ())


def _advice_on_page(name: str, plugin: PluginState) -> Advice:
    is_on = plugin.is_on is True
    return _BUTTON if name == "bump" and not is_on else verdict_of(name).advice(plugin_is_on=is_on)


def _told(advice: Advice, *, may_edit: bool) -> str:
    """Say what to do, or whom to ask. Airflow does not know who operates it."""
    told = [advice.next]
    if advice.operate:
        who = "If you operate Airflow," if may_edit else "Ask somebody who operates Airflow to"
        told.append(f"{who} {advice.operate}.")
    if advice.edit:
        asked = f"Ask somebody who may edit the Dag and its runs to {advice.edit}."
        told.append(sentence(advice.edit) if may_edit else asked)
    return " ".join(filter(None, told))
