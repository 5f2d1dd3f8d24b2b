-- Takes: run (dag_id, run_id, dag_version_id).
-- Counts the stale TIs of the run by the version that they are on.
SELECT ti.dag_version_id, pg_catalog.count(*) AS stale
FROM ONLY @airflow_schema@.task_instance AS ti
WHERE @include:of_run@
AND @include:stale@
GROUP BY ti.dag_version_id
