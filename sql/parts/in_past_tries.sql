-- Takes: run (dag_id, run_id, dag_version_id).
-- True if a past try of one of the run's TIs was on that version.
EXISTS (
    SELECT FROM @airflow_schema@.task_instance_history AS past
    WHERE past.dag_id::text = run.dag_id AND past.run_id::text BETWEEN run.run_id AND run.run_id
    AND past.dag_version_id = run.dag_version_id
    OFFSET 0 -- keeps the planner from hashing the whole table
)
