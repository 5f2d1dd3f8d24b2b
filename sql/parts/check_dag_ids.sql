-- Takes: dag_ids.
-- Raises an error for an array that contains NULL or arrays.
IF pg_catalog.array_ndims(dag_ids) > 1 THEN
    RAISE EXCEPTION 'dag_ids must not be an array of arrays'
        USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL in place of the array means every DAG.';
ELSIF pg_catalog.array_position(dag_ids, NULL) IS NOT NULL THEN
    RAISE EXCEPTION 'dag_ids must not contain NULL'
        USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL in place of the array means every DAG.';
END IF;
