-- Takes: ti, run (dag_id, run_id, both text).
-- True for the TIs of that run, past tries left aside: they are in a table of their own.
@include:of_run@
