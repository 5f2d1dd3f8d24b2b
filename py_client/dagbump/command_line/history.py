"""``dagbump history`` shows what bumps have moved."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from dagbump.command_line.connecting import usable_connection
from dagbump.command_line.exit_codes import exit_codes
from dagbump.command_line.options import (
    BIGINT,
    DagIds,
    DagRunIds,
    Json,
    OfAirflow,
    TrustOwner,
    Url,
    Wide,
    integer,
    moment,
)
from dagbump.command_line.output import as_json as to_json
from dagbump.command_line.output import print_json, print_text, printing, visible
from dagbump.command_line.postponed import Postponed
from dagbump.command_line.tables import Column, print_table
from dagbump.results import HistoryEntry
from dagbump.wording import counted

if TYPE_CHECKING:
    import sqlalchemy as sa

    from dagbump import client
else:
    client = Postponed("dagbump.client")
    sa = Postponed("sqlalchemy")

_SECONDS_BETWEEN_LOOKS = 1.0
# A row becomes visible when its transaction commits, which is later than the time in the row. --follow misses the rows
# of a transaction that takes longer than this.
_LATE = timedelta(minutes=5)

_HISTORY = (
    Column("bumped_at", "at"),
    Column("dag_run_id", "id"),
    Column("dag_id"),
    Column("run_id"),
    Column("bumped"),
    Column("came_from", "from version"),
    Column("version_number", "to version"),
    Column("bumped_by", "by"),
    Column("application_name", "application"),
    Column("caller"),
)


def history(
    url: Url = None,
    airflow_schema: OfAirflow = None,
    trust_owner: TrustOwner = False,
    dag_id: DagIds = None,
    dag_run_id: DagRunIds = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            "--since",
            parser=moment,
            metavar="TIME",
            help="Only rows from this time on: 2026-01-31 or '2026-01-31 14:00', in this machine's time zone if it has "
            "none; or an age: 90s, 30m, 2h, 7d.",
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option("--until", parser=moment, metavar="TIME", help="Only rows before this time, given as in --since."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", callback=integer(BIGINT), metavar="N", help="Only the newest N rows.")
    ] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Then print each new row as a line, until Ctrl-C.")
    ] = False,
    wide: Wide = False,
    as_json: Json = False,
) -> None:
    """Show what was moved: when, by whom, in which run, from which versions to which.

    The newest row is last. With --follow, the command looks for new rows once a second and prints each as a line (with
    --json, as an object on one line). It does not reconnect after a lost connection.
    """
    if follow and until is not None:
        raise typer.BadParameter("--follow prints what comes, and --until ends before that: say one of them")
    with exit_codes(), usable_connection(url, airflow_schema, trust_owner=trust_owner) as (connection, _):
        rows = client.history(connection, dag_run_id, dag_id, since, until, limit)
        connection.rollback()
        narrowed = dag_run_id or dag_id or since or until or not limit
        if follow:
            with _until_told_to_end():
                for row in rows:
                    _print_line(row, as_json=as_json)
                for row in _what_comes(connection, dag_run_id, dag_id, rows):
                    _print_line(row, as_json=as_json)
            return
    with printing():
        if as_json:
            print_json(rows)
        elif rows:
            print_table(_HISTORY, rows, wide=wide)
        else:
            asked_for = " that these options select" if narrowed else ""
            print_text(f"dagbump.history has no row{asked_for}.")


def _what_comes(
    connection: sa.engine.Connection,
    dag_run_ids: list[int] | None,
    dag_ids: list[str] | None,
    seen: tuple[HistoryEntry, ...],
) -> Iterator[HistoryEntry]:
    newest: datetime = max([client.server_time(connection), *(row.bumped_at for row in seen)])
    known = {_key(row) for row in client.history(connection, dag_run_ids, dag_ids, since=newest - _LATE)}
    connection.rollback()
    while True:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        rows = client.history(connection, dag_run_ids, dag_ids, since=newest - _LATE)
        connection.rollback()
        yield from (row for row in rows if _key(row) not in known)
        known = {_key(row) for row in rows}
        newest = max([newest, *(row.bumped_at for row in rows)])


def _key(row: HistoryEntry) -> tuple[datetime, int]:
    return row.bumped_at, row.dag_run_id


def _print_line(row: HistoryEntry, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(row), default=to_json), flush=True)
        return
    at = row.bumped_at.astimezone().isoformat(" ", "seconds")
    moved = f"{counted(row.bumped, 'task instance')} to version {row.version_number} from {row.came_from}"
    where = ", ".join(filter(None, (row.application_name, row.caller)))
    who = f"{row.bumped_by}{f' ({where})' if where else ''}"
    print(visible(f"{at} {row.dag_id} {row.run_id}: {moved}, by {who}"), flush=True)


@contextmanager
def _until_told_to_end() -> Iterator[None]:
    """End quietly on Ctrl-C and SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        yield
