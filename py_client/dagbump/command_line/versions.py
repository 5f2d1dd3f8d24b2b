"""``dagbump versions`` shows the versions of each DAG."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagbump.command_line import filters
from dagbump.command_line.connecting import usable_connection
from dagbump.command_line.exit_codes import exit_codes
from dagbump.command_line.options import DagIds, Json, OfAirflow, TrustOwner, Url, Wide
from dagbump.command_line.output import print_json, print_text, printing
from dagbump.command_line.postponed import Postponed
from dagbump.command_line.tables import GOOD, WAITING, Column, if_any, print_table

if TYPE_CHECKING:
    from dagbump import client
else:
    client = Postponed("dagbump.client")

_VERSIONS = (
    Column("dag_id"),
    Column("running_runs_behind", "runs behind", style=if_any(WAITING)),
    Column("versions"),
    Column("versions_last_day", "last day"),
    Column("version_number", "latest"),
    Column("created_at", "created"),
    Column("stale_only", "stale only", style=if_any(WAITING)),
    Column("unreferenced", style=if_any(GOOD)),
)


def versions(
    url: Url = None,
    airflow_schema: OfAirflow = None,
    trust_owner: TrustOwner = False,
    dag_id: DagIds = None,
    wide: Wide = False,
    as_json: Json = False,
) -> None:
    """Show how many versions each DAG has, and what keeps the old ones from airflow db clean.

    "stale only" counts versions to which only stale task instances refer; when bump has moved these, airflow db clean
    may delete the versions. "unreferenced" counts versions that airflow db clean may delete now. The command reads all
    of task_instance once, which takes seconds on a big database.
    """
    with exit_codes(), usable_connection(url, airflow_schema, trust_owner=trust_owner) as (connection, installed):
        chosen = filters.look_up(connection, installed.airflow_schema, None, dag_id, None)
        rows = client.versions(connection, dag_id)
    with printing():
        if as_json:
            print_json(rows)
        elif rows:
            print_table(_VERSIONS, rows, wide=wide)
        else:
            print_text(f"There is no version{' of ' if chosen.name else ''}{chosen.name}.")
