"""The plugin's metrics in Airflow's Stats."""

from __future__ import annotations

from enum import Enum


class Metric(Enum):
    """A metric: its name in Stats, its kind, and its meaning for the documents."""

    BUMP = "dagbump.bump", "timer", "one call of `bump`"
    TASK_INSTANCES_BUMPED = "dagbump.task_instances_bumped", "counter", "TIs moved"
    TASK_INSTANCES_LOCKED = (
        "dagbump.task_instances_locked",
        "counter",
        "stale TIs that another transaction has locked, once per loop",
    )
    VERIFY = "dagbump.verify", "counter", "calls of `verify_integrity`"
    VERIFY_SKIPPED = (
        "dagbump.verify_skipped",
        "counter",
        "calls that stock Airflow would make, although there is nothing to do",
    )
    VANISHED_TASKS = "dagbump.vanished_tasks", "counter", "unfinished tasks that the DAG no longer has"
    FALLBACK = "dagbump.fallback", "counter", "loops that Airflow's own code did, because dagbump failed"
    OLDEST_LOOK = (
        "dagbump.oldest_look",
        "gauge",
        "the longest time, in seconds, that an examined run has waited for its search for missing tasks",
    )

    def __init__(self, stat: str, kind: str, meaning: str) -> None:
        """Name the parts of the value."""
        self.stat = stat
        self.kind = kind
        self.meaning = meaning
