-- Takes: ti, run (dag_id, run_id, both text).
-- True for the TIs of that run. BETWEEN x AND x makes the planner use the index on (dag_id, run_id), even
-- without statistics. An index on dag_id alone would read years of runs.
ti.dag_id::text = run.dag_id AND ti.run_id::text BETWEEN run.run_id AND run.run_id
