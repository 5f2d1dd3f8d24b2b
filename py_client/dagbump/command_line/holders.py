"""``dagbump holders``, and the sentence about lock holders for other commands."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from dagbump.command_line import filters
from dagbump.command_line.connecting import usable_connection
from dagbump.command_line.exit_codes import exit_codes
from dagbump.command_line.options import DagIds, DagRunIds, Json, OfAirflow, TrustOwner, Url, Wide
from dagbump.command_line.output import note, print_json, print_text, printing
from dagbump.command_line.postponed import Postponed
from dagbump.command_line.tables import WAITING, Column, if_any, print_table
from dagbump.errors import DagbumpError, summary
from dagbump.results import Holder
from dagbump.wording import age, by_transaction, describe_holder

if TYPE_CHECKING:
    import sqlalchemy as sa

    from dagbump import client
else:
    client = Postponed("dagbump.client")
    sa = Postponed("sqlalchemy")


@dataclass(frozen=True)
class Hold:
    """The rows of one run that one transaction has locked."""

    age: str
    pid: int | None
    gid: str | None
    state: str | None
    application_name: str | None
    usename: str | None
    client_addr: str | None
    dag_run_id: int
    dag_id: str
    run_id: str
    held: str
    task_instances: int
    one_of_several: bool
    xact_start: datetime | None


_HOLDS = (
    Column("age"),
    Column("pid"),
    Column("gid"),
    Column("state"),
    Column("application_name", "application"),
    Column("usename", "role"),
    Column("client_addr", "client"),
    Column("dag_run_id", "id"),
    Column("dag_id"),
    Column("run_id"),
    Column("held"),
    Column("task_instances", "TIs"),
    Column("one_of_several", "one of several", style=if_any(WAITING)),
)
_ON_STANDBY = "This server is a hot standby, where no row can be locked. Ask the primary."


def holders(
    url: Url = None,
    airflow_schema: OfAirflow = None,
    trust_owner: TrustOwner = False,
    dag_run_id: DagRunIds = None,
    dag_id: DagIds = None,
    wide: Wide = False,
    as_json: Json = False,
) -> None:
    """Show which transactions have locked stale task instances of running runs, the oldest first.

    Each line is one transaction and one run; with --json, each object is one task instance and one transaction. If
    "held" is dag_version, the transaction has locked the version that the stale task instances of the run would get, so
    all of them wait. The command waits for no lock and writes nothing.
    """
    with exit_codes(), usable_connection(url, airflow_schema, trust_owner=trust_owner) as (connection, installed):
        chosen = filters.look_up(connection, installed.airflow_schema, dag_run_id, dag_id, None)
        rows = client.holders(connection, dag_run_id, dag_id)
        now = client.server_time(connection)
        on_standby = client.is_standby(connection)
    with printing():
        if as_json:
            print_json(rows)
            if on_standby:
                note(_ON_STANDBY)
        elif on_standby:
            print_text(_ON_STANDBY)
        elif rows:
            print_table(_HOLDS, [_hold(group, now) for group in by_transaction(rows)], wide=wide)
        elif chosen.obstacle:
            print_text(f"Nothing is locked. {chosen.obstacle}")
        else:
            print_text(f"Nothing is locked{' in ' if chosen.name else ''}{chosen.name}: no lock is in the way of bump.")


def oldest_holder(connection: sa.engine.Connection, dag_run_ids: Iterable[int]) -> str:
    """Name the oldest transaction that has locked rows of these runs; an empty text if there is none any more.

    Call it after a commit, because it uses a transaction of its own, which it rolls back. If the look-up fails, the
    text says so; nothing is raised, because the work is done.
    """
    try:
        rows = client.holders(connection, dag_run_ids)
        now = client.server_time(connection)
    except (DagbumpError, sa.exc.SQLAlchemyError) as error:
        why = str(error) if isinstance(error, DagbumpError) else summary(error)
        return f"Cannot find out who has locked them: {'; '.join(why.splitlines())}"
    finally:
        with suppress(sa.exc.SQLAlchemyError):
            connection.rollback()
    return f"The oldest holder is {describe_holder(rows[0], now)}; all: dagbump holders" if rows else ""


def _hold(group: list[Holder], now: datetime) -> Hold:
    first = group[0]
    return Hold(
        age=age(first.xact_start, now) if first.xact_start else "",
        pid=first.pid,
        gid=first.gid,
        state=first.state,
        application_name=first.application_name,
        usename=first.usename,
        client_addr=first.client_addr,
        dag_run_id=first.dag_run_id,
        dag_id=first.dag_id,
        run_id=first.run_id,
        held=first.held,
        task_instances=len(group) if first.held == "task_instance" else 0,
        one_of_several=not all(row.certain for row in group),
        xact_start=first.xact_start,
    )
