-- Takes: dag_run_ids.
-- Raises an error for an array that contains NULL or arrays.
IF pg_catalog.array_ndims(dag_run_ids) > 1 THEN
    RAISE EXCEPTION 'dag_run_ids must not be an array of arrays'
        USING ERRCODE = 'invalid_parameter_value', HINT = 'Each element is the id of a DAG run.';
ELSIF pg_catalog.array_position(dag_run_ids, NULL) IS NOT NULL THEN
    RAISE EXCEPTION 'dag_run_ids must not contain NULL'
        USING ERRCODE = 'invalid_parameter_value', HINT = 'Each element is the id of a DAG run.';
END IF;
