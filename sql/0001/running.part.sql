-- The running DAG runs among dag_run_ids, which is the function's. A part of bump, and of running_runs.

SELECT run.id, run.dag_id, run.run_id, run.bundle_version, run.last_scheduling_decision, run.run_after
FROM @airflow_schema@.dag_run AS run
WHERE dag_run_ids IS NULL AND run.state::text = 'running'
UNION ALL
-- Of these two the executor runs one: a list of ids costs a look-up each, not a pass over all running runs.
SELECT run.id, run.dag_id, run.run_id, run.bundle_version, run.last_scheduling_decision, run.run_after
FROM @airflow_schema@.dag_run AS run
WHERE run.id = ANY (dag_run_ids) AND run.state::text = 'running'
