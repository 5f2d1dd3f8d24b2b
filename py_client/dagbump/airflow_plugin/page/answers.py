"""The first sentences of the tab of the runs: a summary of the runs that are shown, and what a search has found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dagbump.airflow_plugin.page.filter import Filter
from dagbump.airflow_plugin.page.overview import Kind, Overview
from dagbump.airflow_plugin.page.words import verdict_of
from dagbump.verdicts import FINE, GONE
from dagbump.wording import counted


@dataclass(frozen=True)
class Answer:
    """The summary of the runs that are shown on all pages.

    Attributes:
        sentence: says whether their task instances are on the latest version.
        tone: ``good``, ``waiting`` or ``wrong``.
        details: more sentences, each about one kind of runs.
    """

    sentence: str
    tone: str
    details: Sequence[str] = ()


def answer_of(found: Overview, wanted: Filter, *, some_hidden: bool) -> Answer:
    """Return the summary; it speaks of all running runs only if the filter leaves none out."""
    if not found.searched.runs:
        if some_hidden:
            return Answer("No Dag that you may see has a running run.", "good", ["Other Dags have running runs."])
        return Answer("No Dag run is running.", "good", ["There is nothing to keep on the latest version."])
    kinds = [kind for kind in found.kinds if wanted.verdict in {"", kind.name}]
    if not kinds:
        return Answer(f"No running run{_which(wanted)}.", "good")
    details = list(_details(kinds))
    if some_hidden and not wanted.is_on:
        details.append("Running runs of Dags that you may not see are not counted.")
    return Answer(_sentence([kind for kind in kinds if not kind.pinned], wanted), _tone(kinds), details)


def searched_in(found: Overview, wanted: Filter) -> list[str]:
    """Say what was searched, whether it was found, and whether it is up to date."""
    if not wanted.search:
        return []
    searched = found.searched
    said = [
        f"Searched for “{wanted.search}” in the ids of the Dags, runs and tasks of "
        f"{counted(searched.runs, 'running run')}."
    ]
    runs = sum(kind.runs for kind in found.kinds)
    if not runs:
        return [*said, "It is in none of them. Runs that are not running are not searched."]
    places = [
        counted(searched.dags, "Dag") if searched.dags else "",
        counted(searched.by_run_id, "run") if searched.by_run_id else "",
        f"tasks in {counted(searched.by_task_id, 'run')}" if searched.by_task_id else "",
    ]
    said.append(f"Found in the ids of {' and of '.join(filter(None, places))}.")
    fine = sum(kind.runs for kind in found.kinds if kind.name == FINE)
    if fine == runs:
        said.append("It is fine: nothing in these runs is stale or missing.")
    elif not fine:
        said.append(f"Of these {counted(runs, 'run')}, none is as it should be.")
    else:
        are_as_they = "is as it" if fine == 1 else "are as they"
        said.append(f"Of these {counted(runs, 'run')}, {fine:,} {are_as_they} should be.")
    if searched.by_task_id and searched.task_behind:
        said.append(f"In {counted(searched.task_behind, 'run')}, such a task is itself stale, missing or gone.")
    elif searched.by_task_id and fine != runs:
        said.append("No such task is itself stale, missing or gone.")
    return said


def _which(wanted: Filter) -> str:
    return (f" with “{wanted.search}” in an id" if wanted.search else "") + (
        f", of the kind “{verdict_of(wanted.verdict).label}”" if wanted.verdict else ""
    )


def _sentence(kinds: Sequence[Kind], wanted: Filter) -> str:
    """Summarize runs that are not pinned."""
    if not kinds:
        return f"All running runs{_which(wanted)} are pinned: they keep the version that they began with."
    runs = f"{counted(sum(kind.runs for kind in kinds), 'running run')}{_which(wanted)}"
    task_instances, stale = sum(kind.task_instances for kind in kinds), sum(kind.stale for kind in kinds)
    if not stale:
        return f"{_all_of(task_instances)} of {runs} {_are_on_the_latest(task_instances)}"
    are, their = ("is", "its") if stale == 1 else ("are", "their")
    return (
        f"{stale:,} of {counted(task_instances, 'unfinished task instance')} {are} not on the latest version of "
        f"{their} Dag, in {sum(kind.behind for kind in kinds):,} of {runs}."
    )


def _all_of(number: int) -> str:
    if number == 1:
        return "The one unfinished task instance"
    return f"All {number:,} unfinished task instances" if number else "No task instance"


def _are_on_the_latest(number: int) -> str:
    if not number:
        return "is unfinished."
    return f"{'is' if number == 1 else 'are'} on the latest version of {'its' if number == 1 else 'their'} Dag."


def _tone(kinds: Iterable[Kind]) -> str:
    tones = {verdict_of(kind.name).tone for kind in kinds if kind.name != FINE}
    return "wrong" if "wrong" in tones else "waiting" if tones else "good"


def _details(kinds: Sequence[Kind]) -> Iterable[str]:
    def runs(*names: str) -> int:
        return sum(kind.runs for kind in kinds if kind.name in names)

    if number := runs("missing_tasks"):
        yield f"{counted(number, 'run')} {'lacks' if number == 1 else 'lack'} tasks."
    if number := runs("needs_verify"):
        waits, it = ("waits", "it") if number == 1 else ("wait", "them")
        yield f"{counted(number, 'run')} {waits} for the scheduler, which has not brought {it} to a new version yet."
    if number := runs(GONE):
        has = "has an unfinished task" if number == 1 else "have unfinished tasks"
        yield f"{counted(number, 'run')} {has} that the latest version no longer has."
    if number := runs("versionless"):
        yield f"{counted(number, 'pinned run')} {'has' if number == 1 else 'have'} task instances on no version at all."
    if number := runs("paused", "not_due", "stale_dag"):
        left_alone = "is left alone" if number == 1 else "are left alone"
        yield f"{counted(number, 'run')} {left_alone}: paused, not due, or without a Dag."
    if number := sum(kind.runs for kind in kinds if kind.pinned):
        keeps = "keeps its own version and is" if number == 1 else "keep their own versions and are"
        yield f"{counted(number, 'pinned run')} {keeps} not counted above."
