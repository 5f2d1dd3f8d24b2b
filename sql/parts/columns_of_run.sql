-- Takes: run (of dag_run).
-- The columns of a DAG run that the functions read.
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
