"""Texts for the verdicts of dagbump.preview; the command line and the page in Airflow's UI use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Literal, TypeAlias

# "wrong": a person has to act. "waiting": Airflow or the next bump will act. "idle": the state is intended.
Tone: TypeAlias = Literal["wrong", "waiting", "idle"]


@dataclass(frozen=True)
class Advice:
    """What happens next, and what people can do, by what they need for it.

    ``operate`` and ``edit`` begin with a verb and have no full stop, so that they also fit behind "Ask somebody to".

    Attributes:
        next: what happens by itself; empty if nothing does.
        operate: what somebody can do who has a shell where Airflow and dagbump are installed, and restarts schedulers.
        edit: what a user of Airflow can do who may edit the DAG and its runs.
        command: a command for ``operate``; ``{dag_id}`` stands for the DAG, quoted for a shell. None if there is none.
    """

    next: str = ""
    operate: str = ""
    edit: str = ""
    command: str | None = None

    @property
    def text(self) -> str:
        """All of it, for somebody who can do it."""
        return " ".join(filter(None, (self.next, sentence(self.operate), sentence(self.edit))))

    def command_for(self, dag_id: str) -> str | None:
        """Return the command for a DAG."""
        return self.command and self.command.format(dag_id=quote(dag_id))


def sentence(phrase: str) -> str:
    """Return a phrase that begins with a verb as a sentence; an empty one stays empty."""
    return phrase and f"{phrase[0].upper()}{phrase[1:]}."


@dataclass(frozen=True)
class Verdict:
    """The texts for a verdict.

    Attributes:
        label: the verdict in two or three words.
        tone: how urgent it is.
        meaning: what has happened.
        with_plugin: what happens next and what to do, if the scheduler's plugin is on.
        without: the same if the plugin is off or its state is unknown; None if it does not differ.
        is_moved: whether the safe form of a bump moves stale task instances of such a run.
        may_be_locked: whether a lock of another transaction may be the reason, which dagbump.holders can then show.
    """

    label: str
    tone: Tone
    meaning: str
    with_plugin: Advice
    without: Advice | None = None
    is_moved: bool = False
    may_be_locked: bool = False

    def advice(self, *, plugin_is_on: bool) -> Advice:
        """Return what happens next, and what to do."""
        return self.with_plugin if plugin_is_on or self.without is None else self.without


_VERIFIED = (
    "The scheduler does that in its next loop: it creates new tasks, removes deleted ones, and moves the others."
)
_BY_PLUGIN = "the scheduler's plugin brings the run to the latest version."
_BY_BUMP = "a bump or the scheduler brings the run to the latest version."
_UNPAUSE = "unpause the DAG, if the run is to go on"

# The most urgent first.
VERDICTS: Mapping[str, Verdict] = {
    "missing_tasks": Verdict(
        "Lacks tasks",
        "wrong",
        "The latest version has tasks that this run lacks, and Airflow does not notice that they are missing.",
        Advice("The scheduler's plugin finds such runs, and makes Airflow create their tasks within a minute or so."),
        Advice(
            "Nothing in Airflow creates them before the DAG changes again.",
            operate="turn the scheduler's plugin on: set `AIRFLOW__DAGBUMP__ENABLED=True` for every scheduler, and "
            "restart it",
        ),
        is_moved=True,
        may_be_locked=True,
    ),
    "versionless": Verdict(
        "No version",
        "wrong",
        "The run is pinned to a bundle version, and some of its task instances are on no version at all. From Airflow "
        "3.1 on, nothing will ever start them.",
        Advice(
            operate="run `dagbump repair`, which gives them the version that the run was created with",
            edit="clear the tasks that were queued before that, because they stay queued; or, if the version of the "
            "run is gone, fail the run",
            command="dagbump repair --dag-id={dag_id}",
        ),
    ),
    "bump": Verdict(
        "Behind",
        "waiting",
        "Unfinished task instances are not on the latest version of their DAG.",
        Advice("The scheduler's plugin moves them in its next loop, except those that another transaction has locked."),
        Advice(
            operate="run `dagbump bump`, which moves them, except those that another transaction has locked",
            command="dagbump bump --dag-id={dag_id}",
        ),
        is_moved=True,
        may_be_locked=True,
    ),
    "needs_verify": Verdict(
        "Waits for scheduler",
        "waiting",
        "The DAG has a new version, to which the scheduler has not brought this run yet.",
        Advice(_VERIFIED),
        Advice(
            _VERIFIED,
            operate="check that the scheduler runs, and what `dagbump check` says about the version order, if it does "
            "not",
            command="dagbump check",
        ),
        may_be_locked=True,
    ),
    "no_serialized_dag": Verdict(
        "Version not readable",
        "wrong",
        "The latest version has no serialized DAG, so no scheduler can run it.",
        Advice(
            operate="have the DAG processor parse the file again: change it, or run `airflow dags reserialize`",
            command="airflow dags reserialize",
        ),
    ),
    "no_version": Verdict(
        "DAG without version",
        "wrong",
        "The DAG has no version at all.",
        Advice(
            operate="check whether the DAG processor can parse its file: `airflow dags list-import-errors`",
            command="airflow dags list-import-errors",
        ),
    ),
    "stale_dag": Verdict(
        "DAG is gone",
        "idle",
        "The DAG is in no DAG file any more, so the scheduler leaves the run alone.",
        Advice(edit="bring the file back, or fail the run"),
    ),
    "paused": Verdict(
        "DAG is paused",
        "idle",
        "The scheduler leaves the run alone while its DAG is paused.",
        Advice(f"Once the DAG is unpaused, {_BY_PLUGIN}", edit=_UNPAUSE),
        Advice(f"Once the DAG is unpaused, {_BY_BUMP}", edit=_UNPAUSE),
    ),
    "not_due": Verdict(
        "Not due yet",
        "idle",
        "The run begins later.",
        Advice(f"Once its run_after is reached, {_BY_PLUGIN}"),
        Advice(f"Once its run_after is reached, {_BY_BUMP}"),
    ),
    "pinned": Verdict(
        "Pinned",
        "idle",
        "The run keeps the version of its DAG bundle that it began with.",
        Advice(
            "Nothing has to be done.",
            edit="clear the run with the latest bundle version, if it is to run on the latest version",
        ),
    ),
}
# What the page calls runs that dagbump.preview does not show.
FINE = "fine"
GONE = "gone"
_FINE = Verdict("Fine", "idle", "No task instance is stale, and no task is missing.", Advice("Nothing has to be done."))

_GONE = Verdict(
    "Task is gone",
    "idle",
    "An unfinished task of the run is not in the latest version any more. Nothing else is the matter.",
    Advice("The scheduler marks the task as removed when it next looks at the run."),
)


def verdict_of(name: str) -> Verdict:
    """Return the texts for a verdict; a verdict of a newer dagbump gets its name as label."""
    unknown = Verdict(name, "idle", "", Advice(operate="upgrade the package, because a newer dagbump says this"))
    return {**VERDICTS, GONE: _GONE, FINE: _FINE}.get(name, unknown)
