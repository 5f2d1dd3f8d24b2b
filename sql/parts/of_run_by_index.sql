-- Takes: ti, run (dag_id, run_id).
-- True for the TIs of that run, in the collation of the optional index. With = instead of BETWEEN x AND x, the planner
-- would drop run_id from the ORDER BY. No other index has that order.
ti.dag_id::text COLLATE pg_catalog."C" = run.dag_id::text
AND ti.run_id::text COLLATE pg_catalog."C" BETWEEN run.run_id::text AND run.run_id::text
