"""What the commands take, as types for typer, and what is refused before a command begins."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

import typer

from dagbump.installation import shapes

# The largest values of PostgreSQL's types.
INTEGER, BIGINT = 2**31 - 1, 2**63 - 1
# The pauses that a loop may make, in seconds.
SHORTEST, LONGEST = 0.1, 24 * 60 * 60


def text(value: str | None) -> str | None:
    """Refuse what is empty, as an unset variable is, and bytes that are no text."""
    if value is not None and not value.strip():
        raise typer.BadParameter("it is empty")
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("it is not text in this locale's encoding") from None
    return value


def shape(value: str | None) -> str | None:
    """Refuse a shape of Airflow's tables that nobody knows."""
    try:
        return value and shapes.of_key(value).key
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def texts(values: list[str] | None) -> list[str] | None:
    """Refuse any such text among several."""
    return values and [value for value in values if text(value)]


def integer(largest: int, smallest: int = 0) -> Callable[[Any], Any]:
    """Refuse a number, or one of several, that PostgreSQL's type does not hold, or that means nothing here."""

    def check(value: int | list[int] | None) -> int | list[int] | None:
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not smallest <= number <= largest:
                raise typer.BadParameter(f"{number} is not a number from {smallest} to {largest}")
        return value

    return check


def seconds(value: float) -> float:
    """Refuse what Python takes for a float, and no clock does."""
    if not SHORTEST <= value <= LONGEST:  # nor is "nan"
        raise typer.BadParameter(f"{value} is not a number from {SHORTEST} to {LONGEST}")
    return value


_AGE = re.compile(r"(?P<count>\d{1,9})(?P<unit>[smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment(value: str) -> datetime:
    """Read a time, in this machine's zone where it names none, or how long ago it was."""
    age = _AGE.fullmatch(value)
    try:
        if age:
            return datetime.now(timezone.utc) - timedelta(**{_UNITS[age["unit"]]: int(age["count"])})
        # Up to Python 3.10, it knows no Z.
        return datetime.fromisoformat(re.sub("[zZ]$", "+00:00", value)).astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{value!r} is neither a time, as 2026-01-31 14:00, nor an age, as 2h") from None


Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The database: any SQLAlchemy URL or libpq connection string. "
        "Default: DAGBUMP_URL, else AIRFLOW__DATABASE__SQL_ALCHEMY_CONN, else airflow.cfg.",
    ),
]
TrustOwner = Annotated[
    bool,
    typer.Option(
        "--trust-owner",
        help="As a superuser, work although Airflow's tables belong to a role that is none: what that role has put in "
        "their way runs with a superuser's rights. Or DAGBUMP_TRUST_OWNER=1.",
    ),
]
AirflowSchema = Annotated[
    str | None,
    typer.Option(
        "--airflow-schema",
        metavar="NAME",
        callback=text,
        help="The schema of Airflow's tables. Default: where task_instance is found on the search path; "
        "with --sql, public.",
    ),
]
OfAirflow = Annotated[
    str | None,
    typer.Option(
        "--airflow-schema",
        metavar="NAME",
        callback=text,
        help="The schema of the Airflow that you mean, where the search path leads to another one.",
    ),
]
AirflowShape = Annotated[
    str | None,
    typer.Option(
        "--airflow-shape",
        metavar="KEY",
        callback=shape,
        help=f"With --sql: which of Airflow's tables the script is for, {shapes.described()}. "
        f"Default: {shapes.FIRST.key}. Without --sql, the database is asked.",
    ),
]
PrintSql = Annotated[bool, typer.Option("--sql", help="Print the script for review; touch no database.")]
Wide = Annotated[bool, typer.Option("--wide", help="Show every column, a row a line, however long.")]
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
        help="Also bump runs for which verify_integrity is due. You promise to run it for them in the same "
        "transaction, which a command line cannot do: for tests and for repairs by people who know Airflow's code.",
    ),
]
