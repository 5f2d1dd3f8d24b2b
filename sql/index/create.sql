-- The optional partial index. With it, a steady loop of dagbump.bump costs the same, however many TIs a run has.
--
-- The predicate is the one in dagbump.bump, letter by letter, because the planner uses
-- the index only for a condition that implies it.
-- Collation C, because ids are only compared for equality, and comparing bytes is cheapest.
-- Also, an upgrade of the operating system's collations cannot corrupt such an index.
-- CONCURRENTLY takes SHARE UPDATE EXCLUSIVE on task_instance, which blocks neither reads
-- nor writes, and waits for transactions that are older than the build.

CREATE INDEX CONCURRENTLY IF NOT EXISTS dagbump_ti_unfinished
ON @airflow_schema@.task_instance (dag_id COLLATE pg_catalog."C", run_id COLLATE pg_catalog."C", dag_version_id)
WHERE @include:unfinished_of_index@;
