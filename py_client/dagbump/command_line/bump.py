"""``dagbump preview`` and ``dagbump bump``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from dagbump.command_line import filters
from dagbump.command_line.connecting import usable_connection
from dagbump.command_line.exit_codes import exit_codes
from dagbump.command_line.holders import oldest_holder
from dagbump.command_line.options import (
    CallerVerifies,
    DagIds,
    DagRunIds,
    Json,
    MaxRuns,
    OfAirflow,
    TrustOwner,
    Url,
    Wide,
)
from dagbump.command_line.output import note, print_json, print_text, printing, sentence
from dagbump.command_line.postponed import Postponed
from dagbump.command_line.tables import GOOD, WAITING, WRONG, Column, if_any, of_verdict, one_of, print_table
from dagbump.errors import ExitCode

if TYPE_CHECKING:
    from dagbump import client
else:
    client = Postponed("dagbump.client")

_PREVIEW = (
    Column("verdict", style=of_verdict),
    Column("dag_run_id", "id"),
    Column("dag_id"),
    Column("run_id"),
    Column("version_number", "latest"),
    Column("stale"),
    Column("stale_by_state", "by state"),
    Column("versionless", style=if_any(WAITING)),
    Column("missing_tasks", "missing", style=if_any(WRONG)),
    Column("vanished_tasks", "vanished", style=if_any(WAITING)),
)
_BUMP = (
    Column("dag_run_id", "id"),
    Column("dag_id"),
    Column("run_id"),
    Column("version_number", "to version"),
    Column("bumped", style=if_any(GOOD)),
    Column("locked", style=if_any(WAITING)),
    Column("needs_verify", style=one_of({True: WAITING})),
)


def preview(
    url: Url = None,
    airflow_schema: OfAirflow = None,
    trust_owner: TrustOwner = False,
    dag_run_id: DagRunIds = None,
    dag_id: DagIds = None,
    max_runs: MaxRuns = None,
    caller_verifies: CallerVerifies = False,
    wide: Wide = False,
    as_json: Json = False,
) -> None:
    """Show what bump would do, what it would leave alone and why, and which runs lack a task.

    This only reads.
    """
    with exit_codes(), usable_connection(url, airflow_schema, trust_owner=trust_owner) as (connection, installed):
        chosen = filters.look_up(connection, installed.airflow_schema, dag_run_id, dag_id, max_runs)
        rows = client.preview(connection, dag_run_id, dag_id, max_runs, caller_verifies)
    with printing():
        if as_json:
            print_json(rows)
        elif rows:
            print_table(_PREVIEW, rows, wide=wide)
        else:
            current = "unfinished task instance outside of pinned runs"
            print_text(_nothing("Nothing is stale, and no task is missing", current, chosen))


def bump(
    url: Url = None,
    airflow_schema: OfAirflow = None,
    trust_owner: TrustOwner = False,
    dag_run_id: DagRunIds = None,
    dag_id: DagIds = None,
    max_runs: MaxRuns = None,
    caller_verifies: CallerVerifies = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, with --caller-verifies.")] = False,
    wide: Wide = False,
    as_json: Json = False,
) -> None:
    """Move stale task instances to the latest version of their DAG, once.

    Without --caller-verifies this is the safe form: a run for which Airflow's verify_integrity is due is left to the
    scheduler, which handles it in its next loop. The command waits for no row lock. Locked task instances are left to a
    later call.
    """
    if caller_verifies:
        _warn_about_caller_verifies(yes=yes)
    with exit_codes(), usable_connection(url, airflow_schema, trust_owner=trust_owner) as (connection, installed):
        chosen = filters.look_up(connection, installed.airflow_schema, dag_run_id, dag_id, max_runs)
        result = client.bump(connection, dag_run_id, dag_id, max_runs, caller_verifies, caller="dagbump bump")
        connection.commit()
        held = [row.dag_run_id for row in result.runs if row.locked]
        holder = oldest_holder(connection, held) if held and not as_json else ""
    with printing(committed=True):
        if as_json:
            print_json(result.runs)
        elif result.runs:
            print_table(_BUMP, result.runs, wide=wide)
            print_text(sentence(result) + (f". {holder}" if holder else ""))
        else:
            told = _nothing("Nothing to do", "task instance that may be bumped", chosen)
            print_text(f"{told} What bump leaves alone, and why: dagbump preview")


def _nothing(what: str, which: str, chosen: filters.Filter) -> str:
    """Say why the result is empty, and which runs were looked at."""
    if chosen.obstacle:
        return f"{what}. {chosen.obstacle}"
    return f"{what}{' in ' if chosen.name else ''}{chosen.name}: every {which} is on the latest version of its DAG."


def _warn_about_caller_verifies(*, yes: bool) -> None:
    note(
        "--caller-verifies bumps runs that Airflow has not verified yet. Airflow verifies a run only while the latest\n"
        "version is on none of its task instances. So run verify_integrity for each run that is shown with\n"
        "needs_verify; otherwise the task instances of newly added tasks are never created in it."
    )
    if yes:
        return
    if not sys.stdin.isatty():
        note("Say --yes to go on without being asked.")
        raise typer.Exit(ExitCode.WRONG_USAGE)
    typer.confirm("Go on?", abort=True, err=True)
