"""What the commands take, as types for typer, and what is refused before a command begins."""

from __future__ import annotations

from typing import Annotated

import typer


def text(value: str | None) -> str | None:
    """Refuse what is empty, as an unset variable is, and bytes that are no text."""
    if value is not None and not value.strip():
        raise typer.BadParameter("it is empty")
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("it is not text in this locale's encoding") from None
    return value


def texts(values: list[str] | None) -> list[str] | None:
    """Refuse any such text among several."""
    return values and [value for value in values if text(value)]


def seconds(value: float) -> float:
    """Refuse what Python takes for a float, and no clock does."""
    if value != value:  # noqa: PLR0124  (not a number, which is neither too small nor too large)
        raise typer.BadParameter("it is not a number")
    return value


Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The database: any SQLAlchemy URL or libpq connection string. "
        "Default: DAGBUMP_URL, else AIRFLOW__DATABASE__SQL_ALCHEMY_CONN, else airflow.cfg.",
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
PrintSql = Annotated[bool, typer.Option("--sql", help="Print the script for review; touch no database.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DagRunIds = Annotated[
    list[int] | None,
    typer.Option("--dag-run-id", min=0, max=2**63 - 1, metavar="ID", help="Only this run (dag_run.id); repeatable."),
]
DagIds = Annotated[
    list[str] | None, typer.Option("--dag-id", metavar="ID", callback=texts, help="Only this DAG; repeatable.")
]
MaxRuns = Annotated[
    int | None,
    typer.Option("--max-runs", min=0, max=2**31 - 1, metavar="N", help="At most N runs, in the scheduler's order."),
]
CallerVerifies = Annotated[
    bool,
    typer.Option(
        "--caller-verifies",
        help="Also bump runs for which verify_integrity is due. You promise to run it for them in the same "
        "transaction, which a command line cannot do: for tests and for repairs by people who know Airflow's code.",
    ),
]
