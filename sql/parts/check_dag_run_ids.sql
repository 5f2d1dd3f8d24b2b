-- Takes: dag_run_ids.
-- Refuses a list that means nothing.
IF pg_catalog.array_position(dag_run_ids, NULL) IS NOT NULL THEN
    RAISE EXCEPTION 'dag_run_ids must not contain NULL'
        USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL in place of the array means all of them.';
END IF;
