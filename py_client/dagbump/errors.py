"""dagbump's exceptions, and the only mapping from PostgreSQL's SQLSTATEs to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit codes of the command line; its help prints the names in lower case."""

    DONE = 0
    THE_WORK_FAILED = 1
    WRONG_USAGE = 2
    DATABASE_NOT_REACHABLE = 3
    NOT_INSTALLED_OR_NOT_SUPPORTED = 4


class DagbumpError(Exception):
    """Base class of dagbump's own errors; the message says what to do.

    Attributes:
        exit_code: the exit code of the command line for this error.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.THE_WORK_FAILED


class NotInstalled(DagbumpError):  # noqa: N818  (the name is part of the public interface)
    """The database has no schema ``dagbump``, because the migration has not been run there."""

    exit_code = ExitCode.NOT_INSTALLED_OR_NOT_SUPPORTED


class VersionMismatch(DagbumpError):  # noqa: N818
    """The database has a revision of dagbump that does not work with this client."""

    exit_code = ExitCode.NOT_INSTALLED_OR_NOT_SUPPORTED


class UnsupportedAirflow(DagbumpError):  # noqa: N818
    """The Airflow tables are missing or not those of Airflow 3.0 to 3.4, or the database is not PostgreSQL."""

    exit_code = ExitCode.NOT_INSTALLED_OR_NOT_SUPPORTED


class InsufficientPrivilege(DagbumpError):  # noqa: N818
    """The role may not do this."""


class Unreachable(DagbumpError):  # noqa: N818
    """No connection to the database could be made."""

    exit_code = ExitCode.DATABASE_NOT_REACHABLE


class InvalidUrl(DagbumpError, ValueError):  # noqa: N818
    """No database URL was given, or the URL cannot be understood."""

    exit_code = ExitCode.WRONG_USAGE


_LOOK_AGAIN = (
    "Airflow's tables have changed since dagbump was installed: run `dagbump upgrade`, which repairs this or says what "
    "to do."
)


def what_to_grant(owner: str = "the role that owns Airflow's tables", role: str = "role") -> str:
    """Return the advice for a role that lacks a privilege, with the names of the roles if they are known."""
    quoted = role.replace("'", "''")
    return f"connect as {owner}, or have that role run: SELECT dagbump.grant_operator('{quoted}');"


# See https://www.postgresql.org/docs/current/errcodes-appendix.html. The functions in sql/ raise the codes DBU…,
# each with a hint that says what to do.
BY_SQLSTATE: dict[str, tuple[type[DagbumpError], str]] = {
    "3F000": (
        NotInstalled,
        "dagbump is not installed in this database: run `dagbump upgrade` against it.",
    ),
    "42883": (
        VersionMismatch,
        "this database has a revision of dagbump that does not work with this client: "
        "install the same release of the package everywhere, then run `dagbump upgrade`.",
    ),
    "42P01": (UnsupportedAirflow, _LOOK_AGAIN),
    "42703": (UnsupportedAirflow, _LOOK_AGAIN),
    "42501": (InsufficientPrivilege, what_to_grant()),
    "25001": (
        DagbumpError,
        "the index is built CONCURRENTLY, which PostgreSQL does not do inside a transaction: "
        "run that statement, or script, outside of one.",
    ),
    "25006": (DagbumpError, ""),
    "DBU01": (UnsupportedAirflow, ""),
    "DBU02": (UnsupportedAirflow, ""),
    "DBU03": (NotInstalled, ""),
    "DBU04": (UnsupportedAirflow, ""),
    "DBU05": (NotInstalled, ""),
}


def sqlstate(error: BaseException) -> str | None:
    """Return the five-character SQLSTATE of a driver's or SQLAlchemy's error; None if it has none."""
    driver_error = getattr(error, "orig", None) or error
    # The attribute is sqlstate in psycopg and asyncpg, pgcode in psycopg2.
    state = getattr(driver_error, "sqlstate", None) or getattr(driver_error, "pgcode", None)
    return state if isinstance(state, str) else None


def summary(error: BaseException) -> str:
    """Return the first line of the server's or the driver's message, which has no SQL and no parameters in it."""
    driver_error = getattr(error, "orig", None) or error
    return (str(driver_error).strip() or type(driver_error).__name__).splitlines()[0]


def hint(error: BaseException) -> str | None:
    """Return the server's hint; None if there is none."""
    driver_error = getattr(error, "orig", None) or error
    # psycopg and psycopg2 have the hint in error.diag, asyncpg in the error itself.
    diagnostics = getattr(driver_error, "diag", None)
    advice = getattr(diagnostics, "message_hint", None) or getattr(driver_error, "hint", None)
    return advice if isinstance(advice, str) else None


@contextmanager
def translated() -> Iterator[None]:
    """Replace a database error by the `DagbumpError` for its SQLSTATE; other errors are raised as they are.

    The database error is the ``__cause__`` of the new one.
    """
    try:
        yield
    except Exception as error:
        known = BY_SQLSTATE.get(sqlstate(error) or "")
        if known is None:
            raise
        kind, advice = known
        # If a privilege is missing, the server's hint is more exact than this table.
        told = hint(error) if kind is InsufficientPrivilege or not advice else None
        raise kind(f"{summary(error)}\n{told or advice}") from error
