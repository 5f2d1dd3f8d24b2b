"""Looks up the runs and DAGs of ``--dag-run-id`` and ``--dag-id``, so that a command can say why its result is empty.

The functions of schema ``dagbump`` return no row both for a run that does not exist and for one with nothing stale. So
this module reads Airflow's own tables. A role that may only call the functions cannot read them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from dagbump.command_line.postponed import Postponed
from dagbump.errors import DagbumpError, sqlstate
from dagbump.installation import sql_files

if TYPE_CHECKING:
    import sqlalchemy as sa

    from dagbump import client
else:
    client = Postponed("dagbump.client")
    sa = Postponed("sqlalchemy")

# Operands are cast to text, because for varchar PostgreSQL might use an operator that somebody has created.
_DAGS = "SELECT dag_id FROM {}.dag WHERE dag_id::text = ANY (CAST(:ids AS text[]))"
_RUNS = "SELECT id, dag_id, state FROM {}.dag_run WHERE id = ANY (CAST(:ids AS bigint[]))"
_RUNNING = """
    SELECT pg_catalog.count(*) FROM {}.dag_run
    WHERE dag_id::text = ANY (CAST(:ids AS text[])) AND state::text = 'running'
"""


_INSUFFICIENT_PRIVILEGE = "42501"


@dataclass(frozen=True)
class Filter:
    """The runs that a command was asked to look at.

    Attributes:
        name: the filter in words; empty if there is none.
        obstacle: a sentence that says why the filter can match nothing; empty if it can match.
    """

    name: str = ""
    obstacle: str = ""


def look_up(
    connection: sa.engine.Connection,
    airflow_schema: str,
    dag_run_ids: Sequence[int] | None,
    dag_ids: Sequence[str] | None,
    max_runs: int | None,
) -> Filter:
    """Look up the runs and DAGs of a filter, in a transaction that is rolled back.

    Raises:
        DagbumpError: a DAG or a run does not exist, or the tables are not those that dagbump was installed for.
    """
    name = _in_words(dag_run_ids or (), dag_ids or (), max_runs)
    if max_runs == 0:
        return Filter(name, "--max-runs 0 leaves no run to look at.")
    if not (dag_run_ids or dag_ids):
        return Filter(name)
    try:
        # The queries below run as the caller. This call, for no run, raises an error if the tables are a stranger's.
        client.preview(connection, dag_run_ids=[])
        look = partial(_look, connection, airflow_schema)
        return Filter(name, _obstacle(look, dag_run_ids or (), dag_ids or ()))
    except sa.exc.ProgrammingError as error:
        if sqlstate(error) != _INSUFFICIENT_PRIVILEGE:
            raise
        return Filter(f"{name} (as far as this role can see; it may not read Airflow's tables)" if name else "")
    finally:
        connection.rollback()


def _in_words(dag_run_ids: Sequence[int], dag_ids: Sequence[str], max_runs: int | None) -> str:
    parts = [] if max_runs is None else [f"the first {max_runs} {'run' if max_runs == 1 else 'runs'}"]
    parts += [_listed("run", dag_run_ids)] if dag_run_ids else []
    parts += [_listed("DAG", dag_ids)] if dag_ids else []
    return " of ".join(parts)


def _look(
    connection: sa.engine.Connection, airflow_schema: str, query: str, ids: Sequence[object]
) -> sa.engine.CursorResult[Any]:
    schema = sql_files.identifier(airflow_schema).replace(":", r"\:")  # SQLAlchemy would take :name for a parameter
    return connection.execute(sa.text(query.format(schema)), {"ids": list(ids)})


def _obstacle(
    look: Callable[[str, Sequence[object]], sa.engine.CursorResult[Any]],
    dag_run_ids: Sequence[int],
    dag_ids: Sequence[str],
) -> str:
    """Return a sentence that says why the filter can match nothing; an empty text if it can match."""
    runs = {run.id: (run.dag_id, run.state) for run in look(_RUNS, dag_run_ids)}
    dags = set(look(_DAGS, dag_ids).scalars())
    unknown = [f"run {run}" for run in dag_run_ids if run not in runs]
    unknown += [f"DAG {dag}" for dag in dag_ids if dag not in dags]
    if unknown:
        raise DagbumpError(f"there is no {', no '.join(unknown)} in this database.")
    if runs:
        running = [run for run, (dag, state) in runs.items() if state == "running" and dag in (dags or {dag})]
        told = "; ".join(
            f"run {run} of DAG {dag} is {state or 'without a state'}" for run, (dag, state) in runs.items()
        )
        return "" if running else f"{told[0].upper()}{told[1:]}."
    if dags and not look(_RUNNING, dag_ids).scalar():
        return f"{_listed('DAG', dag_ids)} {'has' if len(dags) == 1 else 'have'} no running run."
    return ""


def _listed(noun: str, ids: Sequence[object]) -> str:
    return f"{noun}{'' if len(ids) == 1 else 's'} {', '.join(str(id_) for id_ in ids)}"
