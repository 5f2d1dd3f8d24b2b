-- Takes: run (sort_ordinal, last_scheduling_decision, run_after, id).
-- The order in which Airflow's scheduler examines runs (DagRun.get_running_dag_runs_to_examine).
run.sort_ordinal NULLS FIRST, run.last_scheduling_decision NULLS FIRST, run.run_after, run.id
