-- Takes: ti, run (dag_id, run_id, both text).
-- True for the TIs of that run, without past tries.
@include:of_run@ AND ti.working_set IS TRUE
