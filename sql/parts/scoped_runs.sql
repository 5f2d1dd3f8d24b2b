-- Takes: judged (dag_run_id, dag_id, run_id, run_type, logical_date, pinned_version_id, dag_version_id).
-- The runs as scope_of_runs takes them. A pinned run is compared with its own version.
SELECT
    run.dag_run_id,
    run.dag_id,
    run.run_id,
    run.run_type,
    run.logical_date,
    coalesce(run.pinned_version_id, run.dag_version_id) AS dag_version_id
FROM judged AS run
