"""The Python client: one function per SQL function, on the caller's connection and in the caller's transaction.

A call is one statement and one round trip. It does not commit or roll back, it changes no setting and it leaves no
prepared statement behind. So it works through PgBouncer in transaction mode. The exception is asyncpg, which prepares
every statement. To use asyncpg behind PgBouncer, configure it as SQLAlchemy's documentation of that driver says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session

from dagbump.errors import translated
from dagbump.identity_map import expire_bumped
from dagbump.results import (
    BumpResult,
    CheckItem,
    DagVersions,
    HistoryEntry,
    Holder,
    RepairableRun,
    RepairBatch,
    RowT,
    RunBump,
    RunningRun,
    RunPreview,
    RunScope,
    TaskOfRun,
    VersionOfRun,
    VersionsByDay,
    from_rows,
)
from dagbump.sql_call import Call, HistoryQuery

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

    SyncConnection: TypeAlias = psycopg.Connection[Any] | sa.engine.Connection | Session | scoped_session[Session]
    AnyAsyncConnection: TypeAlias = psycopg.AsyncConnection[Any] | AsyncConnection | AsyncSession


def bump(
    connection: SyncConnection,
    dag_run_ids: Iterable[int] | None = None,
    dag_ids: Iterable[str] | None = None,
    max_runs: int | None = None,
    caller_verifies: bool = False,
    report_all: bool = False,
    caller: str | None = None,
) -> BumpResult:
    """Move the stale task instances of the examined DAG runs to the latest version of their DAG.

    The call never waits for a row lock. A task instance that another transaction has locked is counted in ``locked``
    and left for the next call. With a SQLAlchemy `Session`, pending changes are flushed first, unless its autoflush is
    off. Afterwards ``dag_version_id``, ``updated_at`` and ``dag_version`` expire on the session's task instances of
    bumped runs.

    Args:
        connection: a `psycopg.Connection`, or a SQLAlchemy `Connection` or `Session`.
        dag_run_ids: values of ``dag_run.id``. None means every examined run; an empty list means none.
        dag_ids: None means every DAG; an empty list means none.
        max_runs: the largest number of examined runs, in the scheduler's order. None means no limit.
        caller_verifies: False (safe): a run for which ``verify_integrity`` is due is left to Airflow and returned
            with ``needs_verify``. True: such a run is bumped too, and the caller promises to run
            ``verify_integrity`` for it in this transaction. Otherwise Airflow never creates the task instances of
            newly added tasks.
        report_all: True: return every examined run, even if there was nothing to do.
        caller: a text that says who calls. It is recorded in ``dagbump.history``.

    Raises:
        TypeError: an argument has the wrong type.
        NotInstalled: the database has no schema ``dagbump``.
        VersionMismatch: the installed revision of dagbump does not fit this client.
        UnsupportedAirflow: Airflow's tables have changed since dagbump was installed.
        InsufficientPrivilege: this role has not been granted the function.
    """
    _refuse_connection("bump", connection, _SYNC)
    call = Call.to(
        "bump",
        dag_run_ids=dag_run_ids,
        dag_ids=dag_ids,
        max_runs=max_runs,
        caller_verifies=caller_verifies,
        report_all=report_all,
        caller=caller,
    )
    session = _session(connection)
    if session is not None and session.autoflush:
        session.flush()
    result = BumpResult(from_rows(RunBump, _rows(connection, call)))
    if session is not None:
        expire_bumped(session, result)
    return result


async def abump(
    connection: AnyAsyncConnection,
    dag_run_ids: Iterable[int] | None = None,
    dag_ids: Iterable[str] | None = None,
    max_runs: int | None = None,
    caller_verifies: bool = False,
    report_all: bool = False,
    caller: str | None = None,
) -> BumpResult:
    """Do what `bump` does, on a `psycopg.AsyncConnection` or a SQLAlchemy `AsyncConnection` or `AsyncSession`."""
    _refuse_connection("abump", connection, _ASYNC)
    call = Call.to(
        "bump",
        dag_run_ids=dag_run_ids,
        dag_ids=dag_ids,
        max_runs=max_runs,
        caller_verifies=caller_verifies,
        report_all=report_all,
        caller=caller,
    )
    if not _is_one_of(connection, {"psycopg": ("AsyncConnection",)}):
        return await connection.run_sync(bump, **call.arguments)  # type: ignore[union-attr]

    import psycopg  # see _is_one_of
    from psycopg.rows import dict_row

    psycopg_connection = cast("psycopg.AsyncConnection[Any]", connection)
    async with psycopg.AsyncCursor(psycopg_connection, row_factory=dict_row) as cursor:
        if psycopg_connection.info.pipeline_status:  # see _rows
            await cursor.execute(_NOTHING, prepare=False)
            await cursor.fetchall()
        with translated():
            await cursor.execute(call.sql(_PSYCOPG), call.parameters(), prepare=False)
            return BumpResult(from_rows(RunBump, await cursor.fetchall()))


def preview(
    connection: SyncConnection,
    dag_run_ids: Iterable[int] | None = None,
    dag_ids: Iterable[str] | None = None,
    max_runs: int | None = None,
    caller_verifies: bool = False,
) -> tuple[RunPreview, ...]:
    """Show what `bump` with the same arguments would do, and why it would leave other stale task instances alone.

    This only reads. It raises the same errors as `bump`.
    """
    call = Call.to(
        "preview", dag_run_ids=dag_run_ids, dag_ids=dag_ids, max_runs=max_runs, caller_verifies=caller_verifies
    )
    return _answer(connection, call, RunPreview)


def holders(
    connection: SyncConnection,
    dag_run_ids: Iterable[int] | None = None,
    dag_ids: Iterable[str] | None = None,
) -> tuple[Holder, ...]:
    """Show which transactions have locked stale task instances of running runs, the oldest first.

    The call waits for no row lock and writes nothing. But it takes row locks for a moment, so it fails in a read-only
    transaction. It takes the same ids and raises the same errors as `bump`.
    """
    return _answer(connection, Call.to("holders", dag_run_ids=dag_run_ids, dag_ids=dag_ids), Holder)


def versions(connection: SyncConnection, dag_ids: Iterable[str] | None = None) -> tuple[DagVersions, ...]:
    """Show how many versions each DAG has, and what keeps the old ones from ``airflow db clean``.

    This reads all of task_instance once, which takes seconds on a big database. With ``dag_ids`` it reads only the
    rows of these DAGs. It raises the same errors as `bump`.
    """
    return _answer(connection, Call.to("versions", dag_ids=dag_ids), DagVersions)


def check(connection: SyncConnection) -> tuple[CheckItem, ...]:
    """Check that everything is as dagbump needs it; each item that is not ok says what to do.

    This only reads. The command ``dagbump check`` does more: it first checks that the installed functions are really
    dagbump's, and it also gives a result where this function raises.

    Raises:
        TypeError: ``connection`` is not a connection.
        NotInstalled: the database has no schema ``dagbump``.
        VersionMismatch: the installed revision of dagbump does not fit this client.
        InsufficientPrivilege: this role has not been granted the function.
    """
    return _answer(connection, Call.to("check"), CheckItem)


def history(
    connection: SyncConnection,
    dag_run_ids: Iterable[int] | None = None,
    dag_ids: Iterable[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = None,
    search: str | None = None,
) -> tuple[HistoryEntry, ...]:
    """Return the rows of ``dagbump.history``, which say what bumps have moved; the newest is last.

    Args:
        connection: the same kinds as for `bump`.
        dag_run_ids: only these runs.
        dag_ids: only these DAGs.
        since: at this time or later. A time without a zone is in the session's time zone.
        until: before this time.
        limit: only the newest N rows. None means all.
        search: only DAGs or runs with this in their id, whether in upper or lower case.

    Raises:
        InsufficientPrivilege: this role may not read the table.
    """
    arguments = HistoryQuery.to(
        "history", dag_run_ids=dag_run_ids, dag_ids=dag_ids, since=since, until=until, limit=limit, search=search
    )
    return _answer(connection, arguments, HistoryEntry)


def repairable(connection: SyncConnection, dag_ids: Iterable[str] | None = None) -> tuple[RepairableRun, ...]:
    """Return the runs that a repair has to visit; this only reads."""
    return _answer(connection, Call.to("repairable", dag_ids=dag_ids), RepairableRun)


def repair_batch(connection: SyncConnection, dag_run_ids: Iterable[int], batch_size: int) -> RepairBatch:
    """Repair these runs in order, until ``batch_size`` task instances have moved; the caller commits."""
    call = Call.to("repair_batch", dag_run_ids=dag_run_ids, batch_size=batch_size)
    (batch,) = _answer(connection, call, RepairBatch)
    return batch


def verify_scope(connection: SyncConnection, dag_run_ids: Iterable[int]) -> tuple[RunScope, ...]:
    """Show what Airflow's ``verify_integrity`` would find in running DAG runs, without running it.

    This only reads. It raises the same errors as `bump`. The Airflow plugin uses it.
    """
    return _answer(connection, Call.to("verify_scope", dag_run_ids=dag_run_ids), RunScope)


def running(
    connection: SyncConnection, dag_ids: Iterable[str] | None = None, search: str | None = None
) -> tuple[RunningRun, ...]:
    """Return all running runs, each with its verdict and its counts; this only reads."""
    return _answer(connection, Call.to("running", dag_ids=dag_ids, search=search), RunningRun)


def tasks_of_run(
    connection: SyncConnection, dag_run_id: int, search: str | None = None, page: int = 1, page_size: int = 50
) -> tuple[TaskOfRun, ...]:
    """Return one page of the tasks of a running run that are stale, missing or vanished; this only reads."""
    call = Call.to("tasks_of_run", dag_run_id=dag_run_id, search=search, page=page, page_size=page_size)
    return _answer(connection, call, TaskOfRun)


def versions_by_day(
    connection: SyncConnection, dag_ids: Iterable[str] | None = None, days: int | None = None
) -> tuple[VersionsByDay, ...]:
    """Return how many versions of each DAG were created on each of the last days; this only reads."""
    return _answer(connection, Call.to("versions_by_day", dag_ids=dag_ids, days=days), VersionsByDay)


def versions_of_runs(connection: SyncConnection, dag_run_ids: Iterable[int]) -> tuple[VersionOfRun, ...]:
    """Return which versions the unfinished task instances of running DAG runs are on; this only reads."""
    return _answer(connection, Call.to("versions_of_runs", dag_run_ids=dag_run_ids), VersionOfRun)


def server_time(connection: sa.engine.Connection | Session) -> datetime:
    """Return the time of the server's clock; all times in the results are from that clock."""
    now: datetime = connection.execute(sa.select(sa.func.pg_catalog.clock_timestamp())).scalar_one()
    return now


def is_standby(connection: sa.engine.Connection) -> bool:
    """Return whether the server is a hot standby, on which nothing can be written and no row can be locked."""
    return bool(connection.execute(sa.select(sa.func.pg_catalog.pg_is_in_recovery())).scalar_one())


def _answer(connection: SyncConnection, call: Call, kind: type[RowT]) -> tuple[RowT, ...]:
    """Call a function and return one object per row."""
    _refuse_connection(call.function, connection, _SYNC)
    return from_rows(kind, _rows(connection, call))


# Classes by name, so that this module imports neither psycopg, which may lack libpq, nor SQLAlchemy's asyncio. A caller
# who has such an object has imported its module.
_SYNC = {
    "psycopg": ("Connection",),
    "sqlalchemy.engine": ("Connection",),
    "sqlalchemy.orm": ("Session", "scoped_session"),
}
_ASYNC = {"psycopg": ("AsyncConnection",), "sqlalchemy.ext.asyncio": ("AsyncConnection", "AsyncSession")}


def _is_one_of(value: object, classes: Mapping[str, Sequence[str]]) -> bool:
    modules = ((sys.modules.get(module), names) for module, names in classes.items())
    return any(isinstance(value, getattr(module, name)) for module, names in modules if module for name in names)


def _refuse_connection(function: str, connection: object, taken: Mapping[str, Sequence[str]]) -> None:
    """Raise if this is not a connection, or if it is an async one for a sync call or the reverse."""
    if _is_one_of(connection, taken):
        return
    if _is_one_of(connection, _ASYNC):
        right = "await dagbump.abump(connection)"
    elif function == "abump" and _is_one_of(connection, _SYNC):
        right = "dagbump.bump(connection)"
    elif function == "abump":
        right = "async with engine.begin() as connection: await dagbump.abump(connection)"
    else:
        right = f"with engine.begin() as connection: dagbump.{function}(connection)"
    names = " or ".join(f"{module}.{name}" for module, names in taken.items() for name in names)
    raise TypeError(f"connection takes a {names}, not {type(connection).__name__}: {right}")


_PSYCOPG, _SQLALCHEMY = "%({})s", ":{}"
_NOTHING = "SELECT"


def _rows(connection: SyncConnection, call: Call) -> Sequence[Mapping[str, Any]]:
    if _is_one_of(connection, {"psycopg": ("Connection",)}):
        import psycopg  # see _is_one_of
        from psycopg.rows import dict_row

        psycopg_connection = cast("psycopg.Connection[Any]", connection)
        # Do not call connection.cursor(), because the caller's cursor_factory may use other placeholders.
        with psycopg.Cursor(psycopg_connection, row_factory=dict_row) as cursor:
            if psycopg_connection.info.pipeline_status:
                # If a statement that the caller sent earlier failed, its error is raised here, untranslated.
                cursor.execute(_NOTHING, prepare=False)
                cursor.fetchall()
            with translated():
                cursor.execute(call.sql(_PSYCOPG), call.parameters(), prepare=False)
                return cursor.fetchall()
    session = _session(connection)
    with translated():
        sa_connection: sa.engine.Connection = connection if session is None else session.connection()  # type: ignore[assignment]
        with _never_prepared(sa_connection):
            result = sa_connection.execute(sa.text(call.sql(_SQLALCHEMY)), call.parameters())
            return [dict(row) for row in result.mappings()]


def _session(connection: object) -> Session | None:
    if isinstance(connection, scoped_session):
        session: Session = connection()
        return session
    return connection if isinstance(connection, Session) else None


@contextmanager
def _never_prepared(connection: sa.engine.Connection) -> Iterator[None]:
    """Keep psycopg, when SQLAlchemy uses it, from preparing the statement on the server after a few calls."""
    driver_connection: Any = connection.connection.driver_connection
    if not hasattr(driver_connection, "prepare_threshold"):
        yield
        return
    threshold = driver_connection.prepare_threshold
    driver_connection.prepare_threshold = None
    try:
        yield
    finally:
        driver_connection.prepare_threshold = threshold
