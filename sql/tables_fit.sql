-- dagbump.tables_fit: fails where Airflow's tables are not those that the functions were rendered for.
--
-- For the other functions, which begin with it. A migration of Airflow under an
-- installed dagbump changes what a query means (Airflow 3.4 keeps past tries in
-- task_instance), and not all of them would fail by themselves.
--
-- IMMUTABLE, which it is not: so the planner calls it, and once per plan; the call
-- that is planned costs nothing. The plan depends on task_instance, which is named by
-- a constant: where a migration has changed that table, it is made anew.
--
-- Reads the catalogs; locks nothing.

CREATE OR REPLACE FUNCTION dagbump.tables_fit(task_instance regclass) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SECURITY INVOKER
SET search_path = @airflow_schema@, pg_temp
AS $tables_fit$
#variable_conflict use_column
DECLARE
    required CONSTANT jsonb := @include:required_columns@;
    airflow_schema CONSTANT text := @airflow_schema_literal@;
    missing text;
BEGIN
    SELECT pg_catalog.string_agg(wanted.called, ', ' ORDER BY wanted.called) INTO missing
    FROM (
        @include:columns@
    ) AS wanted
    WHERE wanted.type IS NULL;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'Airflow''s tables have changed since dagbump was installed for those of Airflow %; missing: %',
            @airflow_releases_literal@, missing
            USING ERRCODE = 'DBU02', HINT = 'Run: dagbump upgrade, which looks at them, and mends this or says what to do.';
    END IF;
    RETURN TRUE;
END
$tables_fit$;

COMMENT ON FUNCTION dagbump.tables_fit(regclass) IS
'Internal: fails where Airflow''s tables are not those that the functions were rendered for.

For the functions that read them, which begin with it. task_instance: that table, as a constant, so that the
plan of the call depends on it. Answers true. Declared IMMUTABLE, so that it is called when a plan is made
and not again: it costs a steady bump nothing.
Reads the catalogs. Errors: DBU02 where a column is missing.';

REVOKE ALL ON FUNCTION dagbump.tables_fit(regclass) FROM PUBLIC;
