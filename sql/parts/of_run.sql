-- Takes: ti, run (dag_id, run_id, both text).
-- True for the TIs of that run. BETWEEN x AND x: to the planner a narrow range, even where the
-- statistics, or the want of them, say that a DAG has but one run; so it takes an index on
-- (dag_id, run_id) and never one on dag_id alone, which leads through the runs of years.
ti.dag_id::text = run.dag_id AND ti.run_id::text BETWEEN run.run_id AND run.run_id
