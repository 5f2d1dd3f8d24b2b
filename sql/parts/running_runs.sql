-- Takes: ids (bigint[]; NULL: all).
-- The running DAG runs among them.
SELECT
    run.id,
    run.dag_id,
    run.run_id,
    run.run_type,
    run.logical_date,
    run.bundle_version,
    run.created_dag_version_id,
    run.last_scheduling_decision,
    run.run_after,
    run.backfill_id
FROM @airflow_schema@.dag_run AS run
WHERE ids IS NULL AND run.state::text = 'running'
UNION ALL
-- Of these two the executor runs one: a list of ids costs a look-up each, not a pass over all running runs.
SELECT
    run.id,
    run.dag_id,
    run.run_id,
    run.run_type,
    run.logical_date,
    run.bundle_version,
    run.created_dag_version_id,
    run.last_scheduling_decision,
    run.run_after,
    run.backfill_id
FROM @airflow_schema@.dag_run AS run
WHERE run.id = ANY (ids) AND run.state::text = 'running'
