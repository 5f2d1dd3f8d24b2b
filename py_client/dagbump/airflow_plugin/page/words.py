"""What the page says of a verdict, in sentences: what it is, and what happens next or what to do.

The verdicts are those of dagbump.preview, in the order in which they call for somebody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dagbump.airflow_plugin.page.plugin_state import PluginState


@dataclass(frozen=True)
class Verdict:
    """A verdict in words.

    Attributes:
        label: in two or three words.
        tone: ``wrong`` (somebody has to do something), ``waiting`` (somebody else will) or ``idle`` (it is meant so).
        meaning: what has happened.
        next_with_plugin: what happens next, or what to do, where the scheduler's plugin is on.
        next_without: the same where it is off; None: the same.
    """

    label: str
    tone: str
    meaning: str
    next_with_plugin: str
    next_without: str | None = None

    def next(self, plugin: PluginState) -> str:
        """Return what happens next, or what to do."""
        if plugin.is_on or self.next_without is None:
            return self.next_with_plugin
        return self.next_without


VERDICTS: Mapping[str, Verdict] = {
    "missing_tasks": Verdict(
        "Lacks tasks",
        "wrong",
        "The latest version has tasks that this run will never get: Airflow takes the run for verified.",
        "The scheduler's plugin finds such runs and has Airflow create their tasks, within a minute or so.",
        "Nothing in Airflow creates them before the DAG changes again. Turn the scheduler's plugin on.",
    ),
    "versionless": Verdict(
        "Stuck",
        "wrong",
        "The run is pinned to a bundle version, and has task instances on no version: nothing will ever start them.",
        "Run: dagbump repair. If the version that the run was made with is gone, clear these tasks, or fail the run.",
    ),
    "bump": Verdict(
        "Behind",
        "waiting",
        "Task instances would still run the code of an older version.",
        "The scheduler's plugin moves them in its next loop, within a second or so.",
        "The button above moves them; so does: dagbump bump",
    ),
    "needs_verify": Verdict(
        "To be verified",
        "waiting",
        "A version has landed that the scheduler has not looked at for this run yet.",
        "The scheduler does that in its next loop: it creates what is new, removes what is gone, and moves the rest.",
        "The scheduler does that in its next loop: it creates what is new, removes what is gone, and moves the rest. "
        "If it does not, see what dagbump check says of the version order.",
    ),
    "no_serialized_dag": Verdict(
        "Version not readable",
        "wrong",
        "The latest version has no serialized DAG, so no scheduler can run it.",
        "Have the DAG processor parse the file again: change it, or run: airflow dags reserialize",
    ),
    "no_version": Verdict(
        "No version",
        "wrong",
        "The DAG has no version at all.",
        "See that the DAG processor can parse its file: airflow dags list-import-errors",
    ),
    "stale_dag": Verdict(
        "DAG is gone",
        "idle",
        "The DAG is no longer in any DAG file, so the scheduler leaves the run alone.",
        "Bring the file back, or fail the run.",
    ),
    "paused": Verdict(
        "DAG is paused",
        "idle",
        "The scheduler leaves the run alone while its DAG is paused.",
        "Unpause the DAG: the next loop moves these task instances.",
    ),
    "not_due": Verdict(
        "Not due yet",
        "idle",
        "The run begins later.",
        "They are moved once its time has come.",
    ),
    "pinned": Verdict(
        "Pinned",
        "idle",
        "The run is meant to keep the version of its DAG bundle that it began with.",
        "To have it on the latest, clear it with the latest bundle version.",
    ),
}

STATES: Mapping[str, str] = {"no_status": "no status"}  # as Airflow's UI says


def verdict_of(name: str) -> Verdict:
    """Return a verdict in words; one that a newer dagbump knows, as it is."""
    return VERDICTS.get(name) or Verdict(name, "idle", "", "A newer dagbump says this: upgrade the package.")


def count(number: int, one: str, many: str | None = None) -> str:
    """Return a number and the thing that is counted: ``1 run``, ``1,200 runs``."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def task_instances(number: int) -> str:
    """Return so many task instances in words."""
    return count(number, "task instance")
