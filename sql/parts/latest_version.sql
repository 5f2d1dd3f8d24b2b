-- Takes: run (dag_id).
-- The latest version of the run's DAG: the highest version_number. created_at does not matter.
SELECT version.id, version.version_number
FROM @airflow_schema@.dag_version AS version
WHERE version.dag_id::text = run.dag_id::text
ORDER BY version.version_number DESC
LIMIT 1
