-- Takes: run (dag_id, dag_version_id: its latest version).
-- True if Airflow takes another version of the DAG for the latest. Up to 3.2 it takes the newest created_at; if two
-- versions have the same one, it may take either. A scheduler without the plugin then moves back what bump has moved.
-- Airflow 3.3 and later take the highest version_number, as we do. They are recognized by the column retry_reason.
-- It reads all versions of the DAG, so test it last, and only for a run that has something to move.
NOT EXISTS (
    SELECT FROM pg_catalog.pg_attribute AS attribute
    WHERE attribute.attrelid = @task_instance_literal@::regclass::oid
    AND attribute.attname::text = 'retry_reason'
    AND NOT attribute.attisdropped
) AND EXISTS (
    SELECT FROM @airflow_schema@.dag_version AS latest
    JOIN @airflow_schema@.dag_version AS other ON other.dag_id::text = run.dag_id
    WHERE latest.id = run.dag_version_id AND other.created_at >= latest.created_at
    AND other.version_number < latest.version_number -- a higher one has landed during the call; the next call deals with it
)
