"""Counts, sorts and cuts the running runs in one statement, so that only what is shown is fetched."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from dagbump.airflow_plugin.page.filter import Filter
from dagbump.airflow_plugin.page.paging import Slice, slice_of
from dagbump.results import RunningRun, from_rows
from dagbump.sql_call import Call
from dagbump.verdicts import FINE, GONE, VERDICTS

# The columns that a viewer can sort by.
_ORDERS = {
    "verdict": "array_position(CAST(:verdicts AS text[]), kind) {}",
    "dag": "dag_id {}, run_id {}",
    "version": "version_number {}",
    "stale": "stale {}",
    "tasks": "missing_or_vanished {}",
}
# One statement has one snapshot of the database. It answers JSON, because one row has to carry three tables. Names have
# no schema, because `transaction` has pinned the search path to pg_catalog.
_STATEMENT = """
    WITH running AS MATERIALIZED (
        SELECT
            run.*,
            coalesce(run.verdict, CASE WHEN run.missing_or_vanished > 0 THEN :gone ELSE :fine END) AS kind
        FROM ({running}) AS run
    ),
    found AS MATERIALIZED (
        SELECT * FROM running WHERE NOT :searching OR dag_found OR run_found OR task_found
    ),
    listed AS MATERIALIZED (
        SELECT * FROM found WHERE kind = :verdict OR (:verdict = '' AND (:searching OR kind <> :fine))
    ),
    shown AS (
        SELECT listed.*, row_number() OVER (ORDER BY {order}, dag_run_id) AS place FROM listed
        ORDER BY place
        LIMIT :size
        OFFSET (least(:page, greatest(1, ((SELECT count(*) FROM listed) + :size - 1) / :size)) - 1) * :size
    )
    SELECT
        (
            SELECT jsonb_build_object(
                'runs', count(*),
                'dags', count(DISTINCT dag_id) FILTER (WHERE dag_found),
                'by_run_id', count(*) FILTER (WHERE run_found),
                'by_task_id', count(*) FILTER (WHERE task_found),
                'task_behind', count(*) FILTER (WHERE task_behind)
            ) FROM running
        ) AS searched,
        (
            SELECT coalesce(jsonb_agg(to_jsonb(kind)), '[]') FROM (
                SELECT
                    kind AS name,
                    pinned,
                    count(*) AS runs,
                    count(*) FILTER (WHERE stale > 0) AS behind,
                    sum(unfinished) AS task_instances,
                    sum(stale) AS stale
                FROM found
                GROUP BY kind, pinned
            ) AS kind
        ) AS kinds,
        (SELECT count(*) FROM listed) AS listed,
        (
            SELECT coalesce(
                jsonb_agg(to_jsonb(shown) || jsonb_build_object('verdict', nullif(kind, :fine)) ORDER BY shown.place),
                '[]'
            ) FROM shown
        ) AS shown
"""


@dataclass(frozen=True)
class Searched:
    """What a search has found; all zero, except ``runs``, if there was no search.

    Attributes:
        runs: the number of running runs that the viewer may see.
        dags: how many of their DAGs have the searched text in their id.
        by_run_id: how many of these runs have the text in their id.
        by_task_id: how many of these runs have the text in the id of a task.
        task_behind: in how many of these runs such a task is stale, is missing or has vanished.
    """

    runs: int
    dags: int
    by_run_id: int
    by_task_id: int
    task_behind: int


@dataclass(frozen=True)
class Kind:
    """All found runs of one verdict.

    Attributes:
        name: the verdict; ``gone`` or ``fine`` if they have none.
        pinned: whether they are pinned.
        runs: how many they are.
        behind: how many have stale task instances.
        task_instances: the number of their unfinished task instances.
        stale: the number of stale ones.
    """

    name: str
    pinned: bool
    runs: int
    behind: int
    task_instances: int
    stale: int


@dataclass(frozen=True)
class Overview:
    """The running runs of the viewer's DAGs, counted; and one page of those that the filter lists.

    In these rows the verdict may also be ``gone``.
    """

    searched: Searched
    kinds: Sequence[Kind]
    runs: Slice[RunningRun]


def overview(connection: sa.engine.Connection, dag_ids: Collection[str], wanted: Filter) -> Overview:
    """Count the running runs of these DAGs, and return the page of them that is wanted."""
    running = running_call(dag_ids, wanted)
    statement = sa.text(_STATEMENT.format(running=running.sql(":{}"), order=_order(wanted))).bindparams(
        sa.bindparam("searching", bool(wanted.search), sa.Boolean),
        sa.bindparam("verdict", wanted.verdict, sa.Text),
        sa.bindparam("fine", FINE, sa.Text),
        sa.bindparam("gone", GONE, sa.Text),
        sa.bindparam("page", wanted.page, sa.Integer),
        sa.bindparam("size", wanted.size, sa.Integer),
    )
    verdicts = {"verdicts": [*VERDICTS, GONE]} if ":verdicts" in statement.text else {}
    answered = connection.execute(
        statement.columns(searched=JSONB(), kinds=JSONB(), listed=sa.Integer(), shown=JSONB()),
        {**running.parameters(), **verdicts},
    ).one()
    shown = from_rows(RunningRun, answered.shown)
    return Overview(
        Searched(**answered.searched),
        from_rows(Kind, answered.kinds),
        slice_of(shown, answered.listed, wanted.page, wanted.size),
    )


def running_call(dag_ids: Collection[str], wanted: Filter) -> Call:
    """Return the call of dagbump.running; it compares all tasks if the order depends on them."""
    return Call.to("running", dag_ids=dag_ids, search=wanted.search or ("" if wanted.column == "tasks" else None))


def _order(wanted: Filter) -> str:
    direction = "DESC NULLS LAST" if wanted.is_reversed else "ASC NULLS LAST"
    return _ORDERS.get(wanted.column, _ORDERS["verdict"]).replace("{}", direction)
