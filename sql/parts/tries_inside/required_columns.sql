-- Takes: nothing.
-- The columns of Airflow's tables that the functions read and write, with the kind of each. parts/columns.sql says
-- which types are of a kind.
'{
    "dag": {"dag_id": "text", "is_paused": "boolean", "is_stale": "boolean"},
    "dag_run": {
        "id": "integer", "dag_id": "text", "run_id": "text", "run_type": "text", "logical_date": "timestamptz",
        "state": "text", "bundle_version": "text", "created_dag_version_id": "uuid", "run_after": "timestamptz",
        "last_scheduling_decision": "timestamptz", "backfill_id": "integer"
    },
    "dag_version": {"id": "uuid", "dag_id": "text", "version_number": "integer", "created_at": "timestamptz"},
    "serialized_dag": {"dag_version_id": "uuid", "data": "json"},
    "task_instance": {
        "dag_id": "text", "run_id": "text", "task_id": "text", "region_id": "uuid", "region_index": "integer",
        "working_set": "boolean", "state": "text", "dag_version_id": "uuid", "updated_at": "timestamptz"
    }
}'::jsonb
