"""``dagbump history``: what has been moved."""

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
# A row is seen when its transaction commits, which may be later than the time in it. A transaction that goes on for
# longer than that is missed by --follow.
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
            help="Not before: 2026-01-31, '2026-01-31 14:00', with a zone or in this machine's; or how long ago: "
            "90s, 30m, 2h, 7d.",
        ),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--until", parser=moment, metavar="TIME", help="Before that time; as --since.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", callback=integer(BIGINT), metavar="N", help="The newest N.")
    ] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Then print what comes, a line each, until Ctrl-C.")
    ] = False,
    wide: Wide = False,
    as_json: Json = False,
) -> None:
    """Show what has been moved: when, by whom, in which run, from which versions to which. The newest last.

    With --follow, each is a line (with --json, an object on a line), looked for once a second. It does not reconnect.
    """
    if follow and until is not None:
        raise typer.BadParameter("--follow prints what comes, and --until ends before it: say one of them")
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
            asked_for = ", of what was asked for" if narrowed else ""
            print_text(f"Nothing has been moved{asked_for}, as far as dagbump.history goes back.")


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
