"""What the plugin tells: Airflow's log and Airflow's Stats."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any

from dagbump import __version__

if TYPE_CHECKING:
    from dagbump.results import BumpResult, RunBump

log = logging.getLogger(__package__)


def is_on() -> None:
    """Say that the schedulers of this process call dagbump from now on."""
    log.info("dagbump %s is on: one dagbump.bump per scheduler loop", __version__)


def stays_off(why: BaseException) -> None:
    """Warn that they do not."""
    log.warning(
        "dagbump stays off: %s The scheduler does its work without it; to try again, restart it.", _sentences(why)
    )


def waits(answer: RunBump) -> None:
    """Say, once for a version, that a run is left to later loops."""
    log.warning(
        "The latest version (%s) of DAG %s is locked by another transaction; run %s waits, and others have their turn. "
        "Who it is: SELECT * FROM dagbump.holders()",
        answer.version_number,
        answer.dag_id,
        answer.run_id,
    )


def mended(answer: RunBump, tasks: Iterable[str]) -> None:
    """Say that a run lacked tasks, and has them now."""
    log.info(
        "Run %s of DAG %s lacked tasks, although Airflow took it for verified; verify_integrity has seen to them: %s",
        answer.run_id,
        answer.dag_id,
        ", ".join(tasks),
    )


def verify_failed(answer: RunBump, error: BaseException) -> None:
    """Warn, once for a version, that verify_integrity raised; with the traceback, as it is a deployment's own code."""
    log.warning(
        "verify_integrity has failed for run %s of DAG %s, version %s: %s The next loop tries again. If that fails "
        "too, the run goes on without what is new in that version, and the next try is made after [dagbump] "
        "missing_tasks_interval. A run that has no task instance on that version waits instead.",
        answer.run_id,
        answer.dag_id,
        answer.version_number,
        _sentences(error),
        exc_info=error,
    )


def held_for_long(answer: RunBump, seconds: float, holder: str) -> None:
    """Warn that a run has been waiting for somebody else's transaction."""
    log.warning(
        "Task instances of DAG %s, run %s, have kept an old version for more than %g s, because they are held by %s. "
        "All of it: SELECT * FROM dagbump.holders()",
        answer.dag_id,
        answer.run_id,
        seconds,
        holder,
    )


def cannot_name_holders(error: Exception) -> None:
    """Say that it is not to be found out who holds a run; the loop goes on."""
    log.info("dagbump cannot find out who holds task instances: %s", _sentences(error))


class Reporter:
    """What is told of the bumps of a scheduler's loops."""

    def __init__(self, stats: Any) -> None:
        """Take Airflow's Stats."""
        self._stats = stats
        self._falling_back = False  # the last bump failed
        self._without_scope = False  # so did the last verify_scope

    def timer(self) -> AbstractContextManager[Any]:
        """Take the time of a bump."""
        timer: AbstractContextManager[Any] = self._stats.timer("dagbump.bump")
        return timer

    def bumped(self, result: BumpResult, oldest_look: float | None) -> None:
        """Count what a bump did; say that it works, where the last one did not."""
        if self._falling_back:
            log.info("dagbump works again")
            self._falling_back = False
        if result.bumped:
            self._count("dagbump.task_instances_bumped", result.bumped)
        if result.locked:
            self._count("dagbump.task_instances_locked", result.locked)
        if oldest_look is not None:
            with suppress(Exception):
                self._stats.gauge("dagbump.oldest_look", oldest_look)

    def vanished(self, answer: RunBump, tasks: Collection[str]) -> None:
        """Say that Airflow drops tasks of a run that had not finished, because its DAG no longer has them."""
        self._count("dagbump.vanished_tasks", len(tasks))
        log.warning(
            "Run %s of DAG %s had not finished tasks that version %s no longer has, and Airflow removes them: %s",
            answer.run_id,
            answer.dag_id,
            answer.version_number,
            ", ".join(tasks),
        )

    def verified(self) -> None:
        """Count a verify_integrity."""
        self._count("dagbump.verify")

    def verify_skipped(self) -> None:
        """Count one that was due by Airflow's sign, and would have done nothing."""
        self._count("dagbump.verify_skipped")

    def scoped(self) -> None:
        """Take notice of a verify_scope that worked."""
        self._without_scope = False

    def scope_failed(self, error: Exception) -> None:
        """Warn of the first verify_scope that failed."""
        if not self._without_scope:
            log.warning(
                "dagbump.verify_scope has failed: %s verify_integrity runs where Airflow's own sign asks for it, "
                "and missing tasks are not looked for.",
                _sentences(error),
            )
        self._without_scope = True

    def failed(self, error: Exception) -> None:
        """Count a loop that Airflow's own code does; warn of the first."""
        self._count("dagbump.fallback")
        if not self._falling_back:
            log.warning(
                "dagbump has failed: %s Airflow's own code does this loop, and each until dagbump works again.",
                _sentences(error),
            )
        self._falling_back = True

    def _count(self, name: str, count: int = 1) -> None:
        """Count in Airflow's Stats; what goes wrong there is no error of the loop."""
        with suppress(Exception):
            self._stats.incr(name, count)


def _sentences(error: BaseException) -> str:
    """Return what an error says, each line a sentence, without the SQL that SQLAlchemy adds."""
    lines = map(str.strip, str(getattr(error, "orig", None) or error).splitlines())
    sentences = (line if line.endswith((".", "!", ":", ",")) else f"{line}." for line in lines if line)
    return " ".join(sentences) or f"{type(error).__name__}."
