"""The floors: the least that a client and PostgreSQL can do, whatever stands in between."""

from __future__ import annotations

import time
from uuid import UUID

from benchmarks.sides import Loop, OnConnection


class SelectOne(OnConnection):
    """One round trip."""

    def warm_up(self) -> None:
        """Do a round trip."""
        self.loop()

    def loop(self) -> Loop:
        """Do a round trip, on the same kind of cursor as dagbump's client does."""
        start = time.perf_counter()
        with self._worker.cursor() as cursor:
            cursor.execute("SELECT 1", prepare=False)
            cursor.fetchall()
        return Loop((time.perf_counter() - start) * 1000)

    def inspect(self) -> None:
        """Nothing to trace."""


class BareUpdate(SelectOne):
    """An UPDATE of the very rows that a bump moves, whose ids somebody else has found beforehand."""

    _ids: str
    _version: UUID

    def warm_up(self) -> None:
        """Do a round trip."""
        super().loop()

    def prepare(self, version: UUID) -> None:
        """Collect the ids, as text in PostgreSQL's own form, which would take psycopg long to build."""
        row = self.connection.execute(
            """
            SELECT coalesce(array_agg(id), '{}')::text FROM task_instance
            WHERE coalesce(state, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
            AND dag_version_id IS DISTINCT FROM %s
            """,
            (version,),
        ).fetchone()
        if row is None:
            raise LookupError("no answer")
        self._ids, self._version = row[0], version

    def loop(self) -> Loop:
        """Do the UPDATE."""
        start = time.perf_counter()
        with self._worker.cursor() as cursor:
            cursor.execute(
                """
                UPDATE task_instance SET dag_version_id = %s, updated_at = clock_timestamp()
                WHERE id = ANY (%s::uuid[])
                """,
                (self._version, self._ids),
                prepare=False,
            )
        return Loop((time.perf_counter() - start) * 1000)
