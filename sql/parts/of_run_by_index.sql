-- Takes: ti, run (dag_id, run_id).
-- True for the TIs of that run, in the collation of the optional index.
ti.dag_id::text COLLATE pg_catalog."C" = run.dag_id::text AND ti.run_id::text COLLATE pg_catalog."C" = run.run_id::text
