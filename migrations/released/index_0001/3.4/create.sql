-- The optional partial index: with it, a steady loop of dagbump.bump costs the same however many TIs a run has.
--
-- The predicate is, to the letter, the one in dagbump.bump: the planner uses
-- the index only for a condition that implies it.
-- Collation C: ids are compared for equality alone, which is cheapest byte by byte,
-- and no upgrade of the operating system's collations can spoil the index.
-- CONCURRENTLY: takes SHARE UPDATE EXCLUSIVE on task_instance, which blocks neither
-- reads nor writes, and waits for transactions that are older than the build.

CREATE INDEX CONCURRENTLY IF NOT EXISTS dagbump_ti_unfinished
ON @airflow_schema@.task_instance (dag_id COLLATE pg_catalog."C", run_id COLLATE pg_catalog."C", dag_version_id)
WHERE working_set IS TRUE AND coalesce(state::pg_catalog.text, '') OPERATOR(pg_catalog.<>) ALL (
    ARRAY['success', 'failed', 'skipped', 'upstream_failed', 'removed']::pg_catalog.text[]
);
