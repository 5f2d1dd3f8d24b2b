"""What a bump makes out of date in a session's identity map.

Airflow's models, which differ between its releases, are not imported: the session knows those that it holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dagbump.results import BumpResult


def expire_bumped(session: Session, result: BumpResult) -> None:
    """Expire what a bump made out of date in the session's identity map."""
    latest = {(run.dag_id, run.run_id): run.dag_version_id for run in result.runs if run.bumped}
    if not latest:
        return
    for instance in session.identity_map.values():
        state: Any = sa.inspect(instance)
        if getattr(state.mapper.local_table, "name", None) != "task_instance":
            continue
        loaded = state.dict
        run = (loaded.get("dag_id"), loaded.get("run_id"))
        if None not in run and run not in latest:
            continue
        if str(loaded.get("dag_version_id")) == str(latest.get(run)):
            continue
        stale = set(_version_attributes(state.mapper)) - set(state.committed_state)
        session.expire(instance, sorted(stale))


def _version_attributes(mapper: Any) -> Iterator[str]:
    """Yield the mapped attributes that depend on the two columns that a bump writes."""
    written = {"dag_version_id", "updated_at"}
    for attribute in mapper.column_attrs:
        if written & {column.name for column in attribute.columns}:
            yield attribute.key
    for relationship in mapper.relationships:
        if "dag_version_id" in {column.name for column in relationship.local_columns}:
            yield relationship.key
