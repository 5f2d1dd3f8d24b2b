"""What a scheduler's loop knows of its runs, and what it leaves to the next one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from uuid import UUID

from sqlalchemy.orm import Session

from dagbump.airflow_plugin.compatibility import DagRun, DagVersion
from dagbump.results import RunScope

_DAGS_PER_LOOK = 10


@dataclass
class Loop:
    """One try of one scheduler loop. What it knows is good for this transaction, and no longer.

    Attributes:
        session: the scheduler's.
        versions: the latest version of each DAG, by dag_id.
        judged: ids of the runs of which the bump has said what is to be done, if only by its silence.
        due: ids of the runs for which verify_integrity is due.
        held: ids of the runs that have to wait, since another transaction holds their latest version.
        unmoved: the latest version of each unverified run all of whose stale task instances others hold, by run id.
        verified: ids of the runs for which verify_integrity has been called, or would do nothing.
        scopes: what verify_integrity would find, of the runs that were asked about, by run id; for the version in
            `versions`, and only where it could be read.
        lacking: ids of the runs that lack a task although Airflow takes them for verified; they are in `due` too.
        looked_at: ids of the runs in which missing tasks were looked for.
        mended: dag_id, run_id and missing tasks of those in `lacking` that have been verified.
        lost: whether the bump has failed, or has gone with a rollback of the transaction.
            (`DagRun._create_task_instances` rolls back, and lets the loop go on, when somebody else has created the
            same task instance.)
    """

    session: Session
    versions: dict[str, DagVersion] = field(default_factory=dict)
    judged: set[int] = field(default_factory=set)
    due: set[int] = field(default_factory=set)
    held: set[int] = field(default_factory=set)
    unmoved: dict[int, UUID] = field(default_factory=dict)
    verified: set[int] = field(default_factory=set)
    scopes: dict[int, RunScope] = field(default_factory=dict)
    lacking: set[int] = field(default_factory=set)
    looked_at: set[int] = field(default_factory=set)
    mended: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)
    lost: bool = False

    def knows(self, run: DagRun) -> bool:
        """Say whether the loop can answer for a run."""
        return not self.lost and run.id in self.judged


@dataclass
class Memory:
    """What loops that have committed leave to later ones, because the database does not say it.

    Attributes:
        unverified: ids of runs that were bumped, and whose verify_integrity was not called after all, or raised: the
            latest version is on their TIs now, so Airflow's own sign that it is due is gone.
        verified: the version for which verify_integrity has been called of each run that bears no sign of it, since
            all of its stale TIs are held by others; by run id. When they are let go, it is called once more, as
            Airflow's DAG processor may rewrite a version for as long as no TI refers to it.
        looked_at: when missing tasks were last looked for in each run, by run id, on the monotonic clock; for a while.
    """

    unverified: set[int] = field(default_factory=set)
    verified: dict[int, UUID] = field(default_factory=dict)
    looked_at: dict[int, float] = field(default_factory=dict)

    def due(self, loop: Loop, needs_verify: Iterable[int]) -> set[int]:
        """Return the runs that need a verify_integrity: by the bump's answer, but for what is remembered."""
        done = {run for run, version in loop.unmoved.items() if self.verified.get(run) == version}
        return (set(needs_verify) - done) | (self.unverified & loop.judged)

    def to_look_at(self, dag_ids: Mapping[int, str], interval: float) -> set[int]:
        """Return runs in which missing tasks have not been looked for within so many seconds: those of a few DAGs.

        Each DAG has to be unpacked, which takes milliseconds. The others have their turn in the next loops.
        """
        begin = time.monotonic() - interval
        self.looked_at = {run: when for run, when in self.looked_at.items() if when > begin}
        due = {run: dag_id for run, dag_id in dag_ids.items() if run not in self.looked_at}
        few = set(islice(dict.fromkeys(due.values()), _DAGS_PER_LOOK))
        return {run for run, dag_id in due.items() if dag_id in few}

    def take(self, loop: Loop) -> None:
        """Remember what a loop has left undone, or has done without a sign, and what it has looked at."""
        self.looked_at |= dict.fromkeys(loop.looked_at, time.monotonic())
        self.unverified = (self.unverified | loop.due) - loop.verified
        for run in loop.judged - loop.unmoved.keys():
            self.verified.pop(run, None)
        self.verified |= {run: loop.unmoved[run] for run in loop.verified & loop.unmoved.keys()}

    def runs(self) -> set[int]:
        """Return the ids of all runs that something is remembered of."""
        return self.unverified | self.verified.keys()

    def forget(self, runs: Iterable[int]) -> None:
        """Forget runs."""
        for run in runs:
            self.unverified.discard(run)
            self.verified.pop(run, None)


@dataclass
class HeldRuns:
    """The runs that others hold something of, loop after loop.

    Attributes:
        warn_after: for so many seconds, before it is time to warn; 0: never.
    """

    warn_after: float
    _held: dict[int, _Held] = field(default_factory=dict)

    def take(self, judged: Iterable[int], held: Iterable[int], now: float) -> list[int]:
        """Take what a bump says of its runs; return those of which it is time to warn, each once until it is free."""
        if not self.warn_after:
            return []
        before, self._held = self._held, {}
        free = set(judged).difference(held)
        for run, seen in before.items():  # a run that is examined no more is forgotten without asking the database
            if run not in free and now - seen.last < _FORGET_SECONDS:
                self._held[run] = seen
        for run in held:
            self._held.setdefault(run, _Held(now, now)).last = now
        late = [run for run in held if not self._held[run].told and now - self._held[run].first > self.warn_after]
        for run in late:
            self._held[run].told = True
        return late


_FORGET_SECONDS = 3600.0


@dataclass
class _Held:
    first: float
    last: float
    told: bool = False
