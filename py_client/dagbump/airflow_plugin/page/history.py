"""The tab of the history: what was moved, by whom, from which versions to which."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from dagbump.airflow_plugin.page import airflow_tables
from dagbump.airflow_plugin.page.access import Viewer
from dagbump.airflow_plugin.page.database import transaction
from dagbump.airflow_plugin.page.listing import Listing
from dagbump.airflow_plugin.page.paging import Slice, begun, slice_of
from dagbump.results import HistoryEntry, from_rows
from dagbump.sql_call import HistoryQuery

# The columns that a viewer can sort by.
_ORDERS = {
    "when": "bumped_at {}",
    "dag": "dag_id {}, run_id {}, bumped_at DESC",
    "bumped": "bumped {}, bumped_at DESC",
    "from": "CAST(from_versions -> 0 ->> 'version_number' AS integer) {} NULLS LAST, bumped_at DESC",
    "to": "version_number {}, bumped_at DESC",
    "by": "bumped_by {}, caller {}, application_name {}, bumped_at DESC",
}
# It reads the entries up to the first one of the next page, and answers those of the page. Names have no schema,
# because `transaction` has pinned the search path to pg_catalog.
_STATEMENT = """
    WITH reached AS MATERIALIZED (
        SELECT id, dag_id, row_number() OVER (ORDER BY {order}, id) AS place
        FROM (
            SELECT * FROM dagbump.history
            WHERE {condition}
            ORDER BY {order}, id
            LIMIT :page * :size + 1
        ) AS history
    ),
    shown AS (
        SELECT id, place FROM reached
        ORDER BY place
        LIMIT :size
        OFFSET (least(:page, greatest(1, ((SELECT count(*) FROM reached) + :size - 1) / :size)) - 1) * :size
    )
    SELECT
        history.*,
        (SELECT count(*) FROM reached) AS entries_reached,
        (SELECT array_agg(DISTINCT dag_id) FROM reached) AS dags_reached
    FROM shown
    JOIN dagbump.history AS history ON history.id = shown.id
    ORDER BY shown.place
"""


def history_entries(viewer: Viewer, wanted: Listing) -> Slice[HistoryEntry]:
    """Read the entries, ask the auth manager about their DAGs, and read again without the DAGs that it refuses."""
    named = set(airflow_tables.dag_ids())
    readable: set[str] = set()
    while True:
        with transaction() as connection:
            rows = _read(connection, named, wanted)
        unknown = set(rows[0]["dags_reached"] if rows else ()) - readable
        readable |= viewer.readable(unknown)
        refused = unknown - readable
        if not refused:
            break
        named -= refused
    entries = from_rows(HistoryEntry, rows)
    return begun(slice_of(entries, rows[0]["entries_reached"] if rows else 0, wanted.page, wanted.size))


def _read(connection: sa.engine.Connection, dag_ids: set[str], wanted: Listing) -> list[dict[str, Any]]:
    entries = HistoryQuery.to("history", dag_ids=dag_ids, search=wanted.search or None)
    order = _ORDERS.get(wanted.column, "bumped_at DESC").replace("{}", "DESC" if wanted.is_reversed else "ASC")
    statement = sa.text(_STATEMENT.format(order=order, condition=entries.condition(":{}"))).bindparams(
        sa.bindparam("page", wanted.page, sa.Integer), sa.bindparam("size", wanted.size, sa.Integer)
    )
    return [dict(row) for row in connection.execute(statement, entries.parameters()).mappings()]
