"""Expires the objects of a session that a bump has made out of date.

This does not import Airflow's models, because they differ between its releases. The session's own objects lead to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dagbump.results import BumpResult


def expire_bumped(session: Session, result: BumpResult) -> None:
    """Expire the attributes that a bump made out of date in the session's identity map."""
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
    """Yield the mapped attributes that depend on the two columns written by a bump."""
    written = {"dag_version_id", "updated_at"}
    for attribute in mapper.column_attrs:
        if written & {column.name for column in attribute.columns}:
            yield attribute.key
    for relationship in mapper.relationships:
        if "dag_version_id" in {column.name for column in relationship.local_columns}:
            yield relationship.key
