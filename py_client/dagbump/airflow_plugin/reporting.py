"""The plugin's messages in Airflow's log, and its metrics in Airflow's Stats."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dagbump import __version__
from dagbump.airflow_metrics import Metric

if TYPE_CHECKING:
    from dagbump.results import RunBump

log = logging.getLogger(__package__)


def is_on() -> None:
    """Log that the schedulers of this process call dagbump from now on."""
    log.info("dagbump %s is on: one dagbump.bump per scheduler loop", __version__)


def stays_off(why: BaseException) -> None:
    """Warn that the schedulers of this process do not call dagbump."""
    log.warning(
        "dagbump stays off: %s The scheduler does its work without it; to try again, restart it.", _sentences(why)
    )


def waits(answer: RunBump) -> None:
    """Log, once per version, that a run is left to later loops."""
    log.warning(
        "The latest version (%(version_number)s) of DAG %(dag_id)s is locked by another transaction, so run %(run_id)s "
        "waits; other runs go on. To see who has locked it: SELECT * FROM dagbump.holders()",
        vars(answer),
    )


def mended(answer: RunBump, tasks: Iterable[str]) -> None:
    """Log that a run lacked tasks and has them now."""
    log.info(
        "Run %(run_id)s of DAG %(dag_id)s lacked tasks, although Airflow took it for verified; verify_integrity has "
        "seen to them: %(tasks)s",
        vars(answer) | {"tasks": ", ".join(tasks)},
    )


def verify_failed(answer: RunBump, error: BaseException) -> None:
    """Warn, once per version, that verify_integrity raised; the traceback may be of the deployment's own code."""
    log.warning(
        "verify_integrity has failed for run %(run_id)s of DAG %(dag_id)s, version %(version_number)s: %(error)s The "
        "next loop tries again. If that fails too, the run goes on without what is new in that version, and the next "
        "try is made after [dagbump] missing_tasks_interval. A run that has no task instance on that version waits "
        "instead.",
        vars(answer) | {"error": _sentences(error)},
        exc_info=error,
    )


def held_for_long(answer: RunBump, seconds: float, holder: str) -> None:
    """Warn that task instances of a run have been locked by another transaction for long."""
    log.warning(
        "Task instances of DAG %(dag_id)s, run %(run_id)s, have kept an old version for more than %(seconds)g s, "
        "because they are locked by %(holder)s. All lock holders: SELECT * FROM dagbump.holders()",
        vars(answer) | {"seconds": seconds, "holder": holder},
    )


def cannot_name_holders(error: Exception) -> None:
    """Log that the look-up of lock holders failed; the loop goes on."""
    log.info("dagbump cannot find out who has locked task instances: %s", _sentences(error))


def bump_failed(error: Exception) -> None:
    """Warn that loops are left to Airflow's own code."""
    log.warning(
        "dagbump has failed: %s Airflow's own code does this loop, and each until dagbump works again.",
        _sentences(error),
    )


def bump_works_again() -> None:
    """Log the end of what `bump_failed` has warned of."""
    log.info("dagbump works again")


def scope_failed(error: Exception) -> None:
    """Warn that verify_scope failed."""
    log.warning(
        "dagbump.verify_scope has failed: %s verify_integrity runs for each run that has no task instance on "
        "the latest version, as in Airflow, and dagbump does not look for missing tasks.",
        _sentences(error),
    )


def cannot_lock_version(error: Exception) -> None:
    """Warn that missing tasks cannot be added."""
    log.warning("dagbump.take_version has failed: %s dagbump does not add missing tasks.", _sentences(error))


class Reporter:
    """Logs and counts what happens in a scheduler's loops."""

    def __init__(self, stats: Any) -> None:
        """Store Airflow's Stats."""
        self._stats = stats

    def timer(self) -> Any:
        """Return a timer for a bump."""
        return self._stats.timer(Metric.BUMP.stat)

    def bumped(self, answers: Collection[RunBump], oldest_look: float) -> None:
        """Count what a bump did."""
        self.count(Metric.TASK_INSTANCES_BUMPED, sum(row.bumped for row in answers))
        self.count(Metric.TASK_INSTANCES_LOCKED, sum(row.locked for row in answers))
        with suppress(Exception):
            self._stats.gauge(Metric.OLDEST_LOOK.stat, oldest_look)

    def vanished(self, answer: RunBump, tasks: Collection[str]) -> None:
        """Warn that Airflow removes unfinished tasks of a run, because the latest version no longer has them."""
        self.count(Metric.VANISHED_TASKS, len(tasks))
        log.warning(
            "Run %(run_id)s of DAG %(dag_id)s had not finished tasks that version %(version_number)s no longer has, "
            "and Airflow removes them: %(tasks)s",
            vars(answer) | {"tasks": ", ".join(tasks)},
        )

    def count(self, metric: Metric, count: int = 1) -> None:
        """Count in Airflow's Stats; an error there is ignored, because it must not disturb the loop."""
        with suppress(Exception):
            if count:
                self._stats.incr(metric.stat, count)


def _sentences(error: BaseException) -> str:
    """Return an error's message with each line as a sentence, without the SQL that SQLAlchemy adds."""
    lines = map(str.strip, str(getattr(error, "orig", None) or error).splitlines())
    sentences = (line if line.endswith((".", "!", ":", ",")) else f"{line}." for line in lines if line)
    return " ".join(sentences) or f"{type(error).__name__}."
