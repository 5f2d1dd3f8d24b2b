"""Airflow's tables, as far as dagbump and the demo need them, as SQLAlchemy models.

One definition for both uses: `Base.metadata.create_all` makes the tables, and the comparison loads task instances
(TIs) through the same models. Columns, types, indexes and foreign keys are those of Airflow 3.3. TIs and runs have
all of their columns, because their width is what loading them costs; other tables have those that matter here.
Foreign keys to tables that are not here are left out.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Any
from uuid import UUID, uuid4

from sqlalchemy import (
    JSON,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    PickleType,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

FINISHED_STATES = ("success", "failed", "skipped", "upstream_failed", "removed")

String20 = Annotated[str, mapped_column(String(20))]
String50 = Annotated[str, mapped_column(String(50))]
String250 = Annotated[str, mapped_column(String(250))]
String256 = Annotated[str, mapped_column(String(256))]
String500 = Annotated[str, mapped_column(String(500))]
String512 = Annotated[str, mapped_column(String(512))]
String1000 = Annotated[str, mapped_column(String(1000))]
String2000 = Annotated[str, mapped_column(String(2000))]
NewUuid = Annotated[UUID, mapped_column(primary_key=True, default=uuid4)]


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(timezone.utc)


class Base(DeclarativeBase):
    """Base of the models."""

    type_annotation_map = {  # noqa: RUF012  (SQLAlchemy's way to declare it)
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
    }


class Dag(Base):
    """A DAG."""

    __tablename__ = "dag"

    dag_id: Mapped[String250] = mapped_column(primary_key=True)
    is_paused: Mapped[bool] = mapped_column(default=False)
    is_stale: Mapped[bool] = mapped_column(default=False)


class DagVersion(Base):
    """A version of a DAG, the newest one being that with the highest number."""

    __tablename__ = "dag_version"
    __table_args__ = (UniqueConstraint("dag_id", "version_number", name="dag_id_v_name_v_number_unique_constraint"),)

    id: Mapped[NewUuid]
    version_number: Mapped[int]
    dag_id: Mapped[String250] = mapped_column(ForeignKey("dag.dag_id", ondelete="CASCADE"))
    bundle_name: Mapped[String250 | None]
    bundle_version: Mapped[String250 | None]
    version_data: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(default=now)
    last_updated: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class SerializedDag(Base):
    """What the scheduler knows of a version: among other things, its tasks."""

    __tablename__ = "serialized_dag"
    __table_args__ = (UniqueConstraint("dag_version_id", name="serialized_dag_dag_version_id_uq"),)

    id: Mapped[NewUuid]
    dag_id: Mapped[String250]
    data: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    last_updated: Mapped[datetime] = mapped_column(default=now, onupdate=now)
    dag_hash: Mapped[str] = mapped_column(String(32), default="")
    dag_version_id: Mapped[UUID] = mapped_column(ForeignKey("dag_version.id", ondelete="CASCADE"))


class DagRun(Base):
    """A DAG run."""

    __tablename__ = "dag_run"
    __table_args__ = (
        UniqueConstraint("dag_id", "logical_date", name="dag_run_dag_id_logical_date_key"),
        UniqueConstraint("dag_id", "run_id", name="dag_run_dag_id_run_id_key"),
        Index("dag_id_state", "dag_id", "state"),
        Index("idx_dag_run_created_dag_version_id", "created_dag_version_id"),
        Index("idx_dag_run_dag_id", "dag_id"),
        Index("idx_dag_run_queued_dags", "state", "dag_id", postgresql_where=text("state = 'queued'")),
        Index("idx_dag_run_run_after", "run_after"),
        Index("idx_dag_run_running_dags", "state", "dag_id", postgresql_where=text("state = 'running'")),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    dag_id: Mapped[String250]
    queued_at: Mapped[datetime | None]
    logical_date: Mapped[datetime | None]
    start_date: Mapped[datetime | None]
    end_date: Mapped[datetime | None]
    state: Mapped[String50 | None]
    run_id: Mapped[String250]
    creating_job_id: Mapped[int | None]
    run_type: Mapped[String50]
    triggered_by: Mapped[String50 | None]
    triggering_user_name: Mapped[String512 | None]
    conf: Mapped[dict[str, Any] | None]
    data_interval_start: Mapped[datetime | None]
    data_interval_end: Mapped[datetime | None]
    run_after: Mapped[datetime]
    last_scheduling_decision: Mapped[datetime | None]
    log_template_id: Mapped[int | None]
    created_at: Mapped[datetime | None] = mapped_column(default=now)
    updated_at: Mapped[datetime | None] = mapped_column(default=now, onupdate=now)
    clear_number: Mapped[int] = mapped_column(server_default=text("0"))
    backfill_id: Mapped[int | None]
    bundle_version: Mapped[String250 | None]
    scheduled_by_job_id: Mapped[int | None]
    context_carrier: Mapped[dict[str, Any] | None]
    span_status: Mapped[String250] = mapped_column(server_default="not_started")
    created_dag_version_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("dag_version.id", name="created_dag_version_id_fkey", ondelete="SET NULL")
    )
    partition_key: Mapped[String250 | None]
    partition_date: Mapped[datetime | None]

    task_instances: Mapped[list[TaskInstance]] = relationship()


class BackfillDagRun(Base):
    """A run's place in a backfill; empty here, but the scheduler joins it for its order."""

    __tablename__ = "backfill_dag_run"
    __table_args__ = (UniqueConstraint("backfill_id", "dag_run_id", name="ix_bdr_backfill_id_dag_run_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    backfill_id: Mapped[int]
    dag_run_id: Mapped[int | None] = mapped_column(
        ForeignKey("dag_run.id", name="bdr_dag_run_fkey", ondelete="SET NULL")
    )
    sort_ordinal: Mapped[int]


class _Try:
    """The columns that a TI and its history rows have in common."""

    task_id: Mapped[String250]
    dag_id: Mapped[String250]
    run_id: Mapped[String250]
    map_index: Mapped[int] = mapped_column(server_default=text("-1"))
    start_date: Mapped[datetime | None]
    end_date: Mapped[datetime | None]
    duration: Mapped[float | None]
    state: Mapped[String20 | None]
    try_number: Mapped[int] = mapped_column(default=0)
    hostname: Mapped[String1000 | None]
    unixname: Mapped[String1000 | None]
    pool: Mapped[String256] = mapped_column(default="default_pool")
    pool_slots: Mapped[int] = mapped_column(default=1)
    queue: Mapped[String256 | None]
    priority_weight: Mapped[int | None]
    operator: Mapped[String1000 | None]
    custom_operator_name: Mapped[String1000 | None]
    queued_dttm: Mapped[datetime | None]
    scheduled_dttm: Mapped[datetime | None]
    queued_by_job_id: Mapped[int | None]
    pid: Mapped[int | None]
    executor: Mapped[String1000 | None]
    executor_config: Mapped[Any | None] = mapped_column(PickleType)
    updated_at: Mapped[datetime | None] = mapped_column(default=now, onupdate=now)
    rendered_map_index: Mapped[String250 | None]
    context_carrier: Mapped[dict[str, Any] | None]
    span_status: Mapped[String250] = mapped_column(server_default="not_started")
    external_executor_id: Mapped[str | None] = mapped_column(Text)
    trigger_id: Mapped[int | None]
    next_method: Mapped[String1000 | None]
    next_kwargs: Mapped[dict[str, Any] | None]
    task_display_name: Mapped[String2000 | None]
    retry_delay_override: Mapped[float | None]
    retry_reason: Mapped[String500 | None]


class TaskInstance(_Try, Base):
    """A TI: a task in a run."""

    __tablename__ = "task_instance"
    __table_args__ = (
        UniqueConstraint("dag_id", "task_id", "run_id", "map_index", name="task_instance_composite_key"),
        ForeignKeyConstraint(
            ["dag_id", "run_id"],
            ["dag_run.dag_id", "dag_run.run_id"],
            name="task_instance_dag_run_fkey",
            ondelete="CASCADE",
        ),
        Index("ti_dag_run", "dag_id", "run_id"),
        Index("ti_dag_state", "dag_id", "state"),
        Index("ti_dag_version_id", "dag_version_id"),
        Index("ti_heartbeat", "last_heartbeat_at"),
        Index("ti_pool", "pool", "state", "priority_weight"),
        Index("ti_state", "state"),
        Index("ti_state_lkp", "dag_id", "task_id", "run_id", "state"),
        Index("ti_trigger_id", "trigger_id"),
    )

    id: Mapped[NewUuid]
    max_tries: Mapped[int] = mapped_column(server_default=text("-1"))
    trigger_timeout: Mapped[datetime | None]
    last_heartbeat_at: Mapped[datetime | None]
    dag_version_id: Mapped[UUID | None] = mapped_column(ForeignKey("dag_version.id", ondelete="RESTRICT"))


class TaskInstanceHistory(_Try, Base):
    """A try of a TI that is over."""

    __tablename__ = "task_instance_history"
    __table_args__ = (
        UniqueConstraint(
            "dag_id", "task_id", "run_id", "map_index", "try_number", name="task_instance_history_dtrt_uq"
        ),
        ForeignKeyConstraint(
            ["dag_id", "task_id", "run_id", "map_index"],
            ["task_instance.dag_id", "task_instance.task_id", "task_instance.run_id", "task_instance.map_index"],
            name="task_instance_history_ti_fkey",
            onupdate="CASCADE",
            ondelete="CASCADE",
        ),
        Index("idx_tih_dag_run", "dag_id", "run_id"),
    )

    task_instance_id: Mapped[NewUuid]
    max_tries: Mapped[int | None] = mapped_column(server_default=text("-1"))
    trigger_timeout: Mapped[datetime | None] = mapped_column(DateTime)
    dag_version_id: Mapped[UUID | None]
