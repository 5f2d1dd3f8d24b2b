-- Takes: dag_run_ids, dag_ids, max_runs, caller_verifies.
-- Raises an error that names the argument if its value has no meaning.
IF max_runs < 0 THEN
    RAISE EXCEPTION 'max_runs must not be negative, and is %', max_runs
        USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL means no limit.';
ELSIF caller_verifies IS NULL THEN
    RAISE EXCEPTION 'caller_verifies must be true or false, and is NULL'
        USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave it out for the safe form.';
END IF;
@include:check_dag_run_ids@
@include:check_dag_ids@
