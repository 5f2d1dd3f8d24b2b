-- Takes: run (dag_id).
-- Joins to each run its DAG, the latest version of the DAG, and the serialized_dag row of that version. A row that
-- does not exist is all NULL.
LEFT JOIN LATERAL (
    SELECT dag.dag_id, dag.is_paused, dag.is_stale
    FROM @airflow_schema@.dag AS dag
    WHERE dag.dag_id::text = run.dag_id::text
    OFFSET 0 -- keeps the planner from turning this look-up per run into a join
) AS dag ON TRUE
LEFT JOIN LATERAL (
    @include:latest_version@
) AS latest ON TRUE
LEFT JOIN LATERAL (
    SELECT serialized.dag_version_id -- it is unique
    FROM @airflow_schema@.serialized_dag AS serialized
    WHERE serialized.dag_version_id = latest.id
    OFFSET 0 -- as above
) AS serialized ON TRUE
