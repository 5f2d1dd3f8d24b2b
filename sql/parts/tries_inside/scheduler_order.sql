-- Takes: run (last_scheduling_decision, run_after, id).
-- The order in which Airflow's scheduler examines runs (DagRun.get_running_dag_runs_to_examine). A run of a backfill
-- has no special place.
run.last_scheduling_decision NULLS FIRST, run.run_after, run.id
