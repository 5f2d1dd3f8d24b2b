-- Takes: ti, run (dag_id, run_id).
-- True for the TIs of that run, in the collation of the optional index. BETWEEN x AND x, so that an order by run_id as well
-- is not struck out: no other index has it.
ti.dag_id::text COLLATE pg_catalog."C" = run.dag_id::text
AND ti.run_id::text COLLATE pg_catalog."C" BETWEEN run.run_id::text AND run.run_id::text
