"""Texts for the verdicts of dagbump.preview; the command line and the page in Airflow's UI use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Literal, TypeAlias

# "wrong": a person has to act. "waiting": Airflow or the next bump will act. "idle": the state is intended.
Tone: TypeAlias = Literal["wrong", "waiting", "idle"]


@dataclass(frozen=True)
class Verdict:
    """The texts for a verdict.

    Attributes:
        label: the verdict in two or three words.
        tone: how urgent it is.
        meaning: what has happened.
        next_with_plugin: what happens next, or what to do, if the scheduler's plugin is on.
        next_without: the same if the plugin is off or its state is unknown; None if it does not differ.
        command: a command that helps; ``{dag_id}`` stands for the DAG, quoted for a shell. None if there is none.
        command_without: the same if the plugin is off or its state is unknown.
        is_moved: whether the safe form of a bump moves stale task instances of such a run.
        may_be_locked: whether a lock of another transaction may be the reason, which dagbump.holders can then show.
    """

    label: str
    tone: Tone
    meaning: str
    next_with_plugin: str
    next_without: str | None = None
    command: str | None = None
    command_without: str | None = None
    is_moved: bool = False
    may_be_locked: bool = False

    def next(self, *, plugin_is_on: bool) -> str:
        """Return what happens next, or what to do."""
        return self.next_with_plugin if plugin_is_on or self.next_without is None else self.next_without

    def command_for(self, dag_id: str, *, plugin_is_on: bool) -> str | None:
        """Return the command that helps with a DAG."""
        command = self.command if plugin_is_on or self.command_without is None else self.command_without
        return command and command.format(dag_id=quote(dag_id))


# The most urgent first.
VERDICTS: Mapping[str, Verdict] = {
    "missing_tasks": Verdict(
        "Lacks tasks",
        "wrong",
        "The latest version has tasks that this run will never get, because Airflow takes the run for verified.",
        "The scheduler's plugin finds such runs, and makes Airflow create their tasks within a minute or so.",
        "Nothing in Airflow creates them before the DAG changes again. Turn the scheduler's plugin on.",
        command_without="export AIRFLOW__DAGBUMP__ENABLED=True",
        is_moved=True,
        may_be_locked=True,
    ),
    "versionless": Verdict(
        "No version",
        "wrong",
        "The run is pinned to a bundle version, and some of its task instances are on no version at all. From Airflow "
        "3.1 on, nothing will ever start them.",
        "Run `dagbump repair`: it gives them the version that the run was created with. One that is queued already "
        "stays queued: clear its task. If the version of the run is gone, fail the run.",
        command="dagbump repair --dag-id={dag_id}",
    ),
    "bump": Verdict(
        "Behind",
        "waiting",
        "Unfinished task instances are not on the latest version of their DAG.",
        "The scheduler's plugin moves them in its next loop, except those that another transaction has locked.",
        "`dagbump bump` moves them, except those that another transaction has locked.",
        command_without="dagbump bump --dag-id={dag_id}",
        is_moved=True,
        may_be_locked=True,
    ),
    "needs_verify": Verdict(
        "To be verified",
        "waiting",
        "The scheduler has not looked at the latest version for this run yet.",
        "The scheduler does that in its next loop: it creates new tasks, removes deleted ones, and moves the others.",
        "The scheduler does that in its next loop: it creates new tasks, removes deleted ones, and moves the others. "
        "If it does not, check that the scheduler runs, and what `dagbump check` says about the version order.",
        may_be_locked=True,
    ),
    "no_serialized_dag": Verdict(
        "Version not readable",
        "wrong",
        "The latest version has no serialized DAG, so no scheduler can run it.",
        "Have the DAG processor parse the file again: change it, or run `airflow dags reserialize`.",
        command="airflow dags reserialize",
    ),
    "no_version": Verdict(
        "DAG without version",
        "wrong",
        "The DAG has no version at all.",
        "Check whether the DAG processor can parse its file: `airflow dags list-import-errors`.",
        command="airflow dags list-import-errors",
    ),
    "stale_dag": Verdict(
        "DAG is gone",
        "idle",
        "The DAG is in no DAG file any more, so the scheduler leaves the run alone.",
        "Bring the file back, or fail the run.",
    ),
    "paused": Verdict(
        "DAG is paused",
        "idle",
        "The scheduler leaves the run alone while its DAG is paused.",
        "Once somebody unpauses the DAG, the next loop moves these task instances.",
        command="airflow dags unpause {dag_id}",
    ),
    "not_due": Verdict(
        "Not due yet",
        "idle",
        "The run begins later.",
        "The scheduler gets to it when its run_after is reached.",
    ),
    "pinned": Verdict(
        "Pinned",
        "idle",
        "The run keeps the version of its DAG bundle that it began with.",
        "Nothing has to be done. To move it to the latest version, clear it with the latest bundle version.",
    ),
}
# What the page calls a run that dagbump.preview does not show.
FINE = "fine"
_FINE = Verdict("Fine", "idle", "No task instance is stale, and no task is missing.", "Nothing has to be done.")


def verdict_of(name: str) -> Verdict:
    """Return the texts for a verdict; a verdict of a newer dagbump gets its name as label."""
    unknown = Verdict(name, "idle", "", "A newer dagbump says this: upgrade the package.")
    return _FINE if name == FINE else VERDICTS.get(name, unknown)
