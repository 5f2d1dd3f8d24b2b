"""The options of the commands as types for typer, and the checks of their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

import typer

from dagbump.installation import shapes
from dagbump.installation.names import LONGEST_NAME

# The largest values of PostgreSQL's types.
INTEGER, BIGINT = 2**31 - 1, 2**63 - 1
# The limits of `dagbump run --interval`, in seconds.
SHORTEST, LONGEST = 0.1, 24 * 60 * 60
# PostgreSQL's timeouts are in milliseconds.
SHORTEST_TIMEOUT = 0.001


def text(value: str | None) -> str | None:
    """Refuse an empty value, because it may be an unset variable, and bytes that are not text."""
    if value is not None and not value.strip():
        raise typer.BadParameter("it is empty")
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("it is not text in this locale's encoding") from None
    return value


def schema_name(value: str | None) -> str | None:
    """Refuse a name that PostgreSQL would cut off, and then not find."""
    if len((text(value) or "").encode()) > LONGEST_NAME:
        raise typer.BadParameter(f"a name in PostgreSQL has at most {LONGEST_NAME} bytes")
    return value


def shape(value: str | None) -> str | None:
    """Refuse an unknown shape of Airflow's tables."""
    try:
        return value and shapes.of_key(value).key
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def texts(values: list[str] | None) -> list[str] | None:
    """Refuse a list with a value that `text` refuses."""
    return values and [value for value in values if text(value)]


def integer(largest: int, smallest: int = 0) -> Callable[[Any], Any]:
    """Return a check that refuses a number, or a list with a number, outside of these limits."""

    def check(value: int | list[int] | None) -> int | list[int] | None:
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not smallest <= number <= largest:
                raise typer.BadParameter(f"{number} is not a number from {smallest} to {largest}")
        return value

    return check


def interval(value: float) -> float:
    """Refuse an interval that is out of range, infinite or not a number."""
    if not SHORTEST <= value <= LONGEST:  # also refuses "nan"
        raise typer.BadParameter(f"{value} is not a number from {SHORTEST} to {LONGEST}")
    return value


def timeout(value: float) -> float:
    """Refuse a timeout that PostgreSQL would refuse, or would round to 0, which means no timeout."""
    if value and not SHORTEST_TIMEOUT <= value <= LONGEST:  # also refuses "nan"
        raise typer.BadParameter(f"{value} is neither 0 nor a number from {SHORTEST_TIMEOUT} to {LONGEST}")
    return value


_AGE = re.compile(r"(?P<count>\d{1,9})(?P<unit>[smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment(value: str) -> datetime:
    """Parse a time or an age; a time without a zone is in this machine's zone."""
    age = _AGE.fullmatch(value)
    try:
        if age:
            return datetime.now(timezone.utc) - timedelta(**{_UNITS[age["unit"]]: int(age["count"])})
        # fromisoformat does not know "Z" before Python 3.11.
        return datetime.fromisoformat(re.sub("[zZ]$", "+00:00", value)).astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{value!r} is neither a time, as 2026-01-31 14:00, nor an age, as 2h") from None


Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The database, as any SQLAlchemy URL or libpq connection string. "
        "Default: DAGBUMP_URL, else AIRFLOW__DATABASE__SQL_ALCHEMY_CONN, else airflow.cfg.",
    ),
]
TrustOwner = Annotated[
    bool,
    typer.Option(
        "--trust-owner",
        help="Let a superuser work although Airflow's tables belong to an ordinary role. Triggers and other code that "
        "this role has put on the tables then run with a superuser's rights. DAGBUMP_TRUST_OWNER=1 does the same.",
    ),
]
AirflowSchema = Annotated[
    str | None,
    typer.Option(
        "--airflow-schema",
        metavar="NAME",
        callback=schema_name,
        help="The schema of Airflow's tables. Default: the schema on the search path that has task_instance; "
        "with --sql, public.",
    ),
]
OfAirflow = Annotated[
    str | None,
    typer.Option(
        "--airflow-schema",
        metavar="NAME",
        callback=schema_name,
        help="The schema of Airflow's tables, if the search path leads to another Airflow.",
    ),
]
AirflowShape = Annotated[
    str | None,
    typer.Option(
        "--airflow-shape",
        metavar="KEY",
        callback=shape,
        help=f"With --sql: the shape of Airflow's tables that the script is for: {shapes.described()}. "
        f"Default: {shapes.FIRST.key}. Without --sql, dagbump looks into the database.",
    ),
]
PrintSql = Annotated[bool, typer.Option("--sql", help="Print the script for review; use no database.")]
Wide = Annotated[bool, typer.Option("--wide", help="Show all columns, with one line per row, however long.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DagRunIds = Annotated[
    list[int] | None,
    typer.Option(
        "--dag-run-id", callback=integer(BIGINT), metavar="ID", help="Only this run (dag_run.id); repeatable."
    ),
]
DagIds = Annotated[
    list[str] | None, typer.Option("--dag-id", metavar="ID", callback=texts, help="Only this DAG; repeatable.")
]
MaxRuns = Annotated[
    int | None,
    typer.Option(
        "--max-runs", callback=integer(INTEGER), metavar="N", help="At most N runs, in the scheduler's order."
    ),
]
CallerVerifies = Annotated[
    bool,
    typer.Option(
        "--caller-verifies",
        help="Also bump runs for which verify_integrity is due. The caller must then run it for them in the same "
        "transaction, which a command line cannot do. Only for tests, and for people who know Airflow's code.",
    ),
]
