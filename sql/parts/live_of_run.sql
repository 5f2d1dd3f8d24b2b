-- Takes: ti, run (dag_id, run_id, both text).
-- True for the TIs of that run. Past tries are in another table.
@include:of_run@
