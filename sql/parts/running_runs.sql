-- Takes: ids (bigint[]; NULL: all).
-- The running DAG runs with one of these ids.
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
-- Only one of the two branches is executed. With ids, the cost is one look-up per id, not a scan of all running runs.
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
