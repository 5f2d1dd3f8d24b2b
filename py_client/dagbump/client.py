"""The Python client: one function per SQL function, on the caller's connection and in the caller's transaction.

A call is one statement and one round trip. It neither commits nor rolls back, changes no setting and leaves
no prepared statement behind, so that it works through PgBouncer in transaction mode. (asyncpg is the exception:
it prepares whatever it runs; behind PgBouncer, configure it as SQLAlchemy's documentation of that driver says.)
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session

from dagbump.errors import translated
from dagbump.results import BumpResult, RunBump, RunPreview, from_rows

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
) -> BumpResult:
    """Move the stale task instances of the examined DAG runs to the latest version of their DAG.

    Never waits for a row lock: what another transaction holds is counted in ``locked`` and left for the next call.
    Of a SQLAlchemy `Session`, pending changes are flushed first (unless its autoflush is off), and afterwards
    ``dag_version_id``, ``updated_at`` and ``dag_version`` of the task instances it holds of bumped runs are expired.

    Args:
        connection: a `psycopg.Connection`, or a SQLAlchemy `Connection` or `Session`.
        dag_run_ids: ``dag_run.id``; None: every examined run; empty: none.
        dag_ids: None: every DAG; empty: none.
        max_runs: at most so many examined runs, in the scheduler's order; None: no limit.
        caller_verifies: False (safe): runs for which ``verify_integrity`` is due are left to Airflow and
            answered with ``needs_verify``. True: they are bumped too, and the caller promises to run
            ``verify_integrity`` for each of them in this transaction; otherwise Airflow never creates the
            task instances of newly added tasks.

    Raises:
        TypeError: an argument is not of the kind that is meant.
        NotInstalled: schema ``dagbump`` is not there.
        VersionMismatch: another revision of it is.
        UnsupportedAirflow: Airflow's tables have changed since it was installed.
        InsufficientPrivilege: this role has not been granted the function.
    """
    _refuse_connection("bump", connection, _SYNC)
    call = _Call.to("bump", dag_run_ids, dag_ids, max_runs, caller_verifies)
    session = _session(connection)
    if session is not None and session.autoflush:
        session.flush()
    result = BumpResult(from_rows(RunBump, _rows(connection, call)))
    if session is not None:
        _expire_bumped(session, result)
    return result


async def abump(
    connection: AnyAsyncConnection,
    dag_run_ids: Iterable[int] | None = None,
    dag_ids: Iterable[str] | None = None,
    max_runs: int | None = None,
    caller_verifies: bool = False,
) -> BumpResult:
    """Do what `bump` does, on a `psycopg.AsyncConnection` or a SQLAlchemy `AsyncConnection` or `AsyncSession`."""
    _refuse_connection("abump", connection, _ASYNC)
    call = _Call.to("bump", dag_run_ids, dag_ids, max_runs, caller_verifies)
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
            await cursor.execute(call.sql(_PSYCOPG), call.arguments, prepare=False)
            return BumpResult(from_rows(RunBump, await cursor.fetchall()))


def preview(
    connection: SyncConnection,
    dag_run_ids: Iterable[int] | None = None,
    dag_ids: Iterable[str] | None = None,
    max_runs: int | None = None,
    caller_verifies: bool = False,
) -> tuple[RunPreview, ...]:
    """Show what `bump` with the same arguments would do, and why it leaves other stale task instances alone.

    Reads only. Takes the same arguments and raises the same errors as `bump`.
    """
    _refuse_connection("preview", connection, _SYNC)
    call = _Call.to("preview", dag_run_ids, dag_ids, max_runs, caller_verifies)
    return from_rows(RunPreview, _rows(connection, call))


# The casts let every driver send an empty list.
_TYPES = {"dag_run_ids": "bigint[]", "dag_ids": "text[]", "max_runs": "integer", "caller_verifies": "boolean"}


@dataclass(frozen=True)
class _Call:
    """One call of a function in schema ``dagbump``, ready for psycopg and for SQLAlchemy.

    Only what the caller has given is sent: the steady loop of a scheduler, every second, has next to nothing to parse.
    """

    function: str
    arguments: dict[str, Any]

    @classmethod
    def to(
        cls, function: str, dag_run_ids: object, dag_ids: object, max_runs: object, caller_verifies: object
    ) -> _Call:
        given: dict[str, Any] = {}
        if dag_run_ids is not None:
            given["dag_run_ids"] = _list(function, "dag_run_ids", dag_run_ids, "integers", "[17, 18]", _integer)
        if dag_ids is not None:
            given["dag_ids"] = _list(function, "dag_ids", dag_ids, "str", "['etl']", _text)
        if max_runs is not None:
            try:
                given["max_runs"] = _integer(max_runs)
            except TypeError:
                raise _misused(function, "max_runs", "an integer or None", max_runs, "20") from None
        if not isinstance(caller_verifies, bool):
            raise _misused(function, "caller_verifies", "True or False", caller_verifies, "False")
        if caller_verifies:
            given["caller_verifies"] = True
        return cls(function, given)

    def sql(self, placeholder: str) -> str:
        arguments = (f"{name} => CAST({placeholder.format(name)} AS {_TYPES[name]})" for name in self.arguments)
        return f"SELECT * FROM dagbump.{self.function}({', '.join(arguments)})"  # noqa: S608  (constants only)


def _list(
    function: str, name: str, value: object, kind: str, example: str, convert: Callable[[object], Any]
) -> list[Any]:
    """Return what an argument that takes several ids holds; a text is one thing here, not its letters."""
    if isinstance(value, str | bytes | bytearray | memoryview) or not isinstance(value, Iterable):
        raise _misused(function, name, f"an iterable of {kind}", value, example)
    converted = []
    for item in value:
        try:
            converted.append(convert(item))
        except TypeError:
            raise _misused(function, name, f"an iterable of {kind}, and nothing else in it", item, example) from None
    return converted


def _integer(value: object) -> int | None:
    """Return whatever counts as an integer, numpy's for one, as an int; None is the server's to refuse."""
    if isinstance(value, bool):
        raise TypeError
    return None if value is None else operator.index(value)  # type: ignore[arg-type]


def _text(value: object) -> str | None:
    if not isinstance(value, str | None):
        raise TypeError
    return value


def _misused(function: str, name: str, wanted: str, given: object, example: str) -> TypeError:
    return TypeError(
        f"{name} takes {wanted}, not {type(given).__name__}: dagbump.{function}(connection, {name}={example})"
    )


# By name, because whoever holds one has imported it: psycopg cannot be imported where there is no libpq, and async code
# is not for everybody.
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
    """Raise where the connection is not one, or is one for the other kind of call."""
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


def _rows(connection: SyncConnection, call: _Call) -> Sequence[Mapping[str, Any]]:
    if _is_one_of(connection, {"psycopg": ("Connection",)}):
        import psycopg  # see _is_one_of
        from psycopg.rows import dict_row

        psycopg_connection = cast("psycopg.Connection[Any]", connection)
        # Not its cursor(): the caller's cursor_factory may take other placeholders.
        with psycopg.Cursor(psycopg_connection, row_factory=dict_row) as cursor:
            if psycopg_connection.info.pipeline_status:
                # An error of what the caller has sent before comes out here, as it is.
                cursor.execute(_NOTHING, prepare=False)
                cursor.fetchall()
            with translated():
                cursor.execute(call.sql(_PSYCOPG), call.arguments, prepare=False)
                return cursor.fetchall()
    session = _session(connection)
    with translated():
        sa_connection: sa.engine.Connection = connection if session is None else session.connection()  # type: ignore[assignment]
        with _never_prepared(sa_connection):
            result = sa_connection.execute(sa.text(call.sql(_SQLALCHEMY)), call.arguments)
            return [dict(row) for row in result.mappings()]


def _session(connection: object) -> Session | None:
    if isinstance(connection, scoped_session):
        session: Session = connection()
        return session
    return connection if isinstance(connection, Session) else None


@contextmanager
def _never_prepared(connection: sa.engine.Connection) -> Iterator[None]:
    """Keep psycopg, below SQLAlchemy, from preparing the statement on the server after a few calls."""
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


def _expire_bumped(session: Session, result: BumpResult) -> None:
    """Expire what the bump made out of date in the session's identity map; Airflow's models are not imported."""
    latest = {(run.dag_id, run.run_id): run.dag_version_id for run in result.runs if run.bumped}
    if not latest:
        return
    for instance in session.identity_map.values():
        state: Any = sa.inspect(instance)
        if getattr(state.mapper.local_table, "name", None) != "task_instance":
            continue
        loaded = state.dict
        run = (loaded.get("dag_id"), loaded.get("run_id"))
        if None not in run and run not in latest:
            continue
        if str(loaded.get("dag_version_id")) == str(latest.get(run)):
            continue
        stale = set(_version_attributes(state.mapper)) - set(state.committed_state)
        session.expire(instance, sorted(stale))


def _version_attributes(mapper: Any) -> Iterator[str]:
    """Yield the mapped attributes that depend on the two columns that a bump writes."""
    written = {"dag_version_id", "updated_at"}
    for attribute in mapper.column_attrs:
        if written & {column.name for column in attribute.columns}:
            yield attribute.key
    for relationship in mapper.relationships:
        if "dag_version_id" in {column.name for column in relationship.local_columns}:
            yield relationship.key
