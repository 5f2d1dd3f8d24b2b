-- dagbump.tables_fit: raises an error if Airflow's tables are not those that the functions were made for.
--
-- The other functions call it first. A migration of Airflow can change the meaning of a
-- query in an installed function (Airflow 3.4 keeps past tries in task_instance), and
-- not every such query would fail.
--
-- It is declared IMMUTABLE, although it is not, so that the planner calls it, once per
-- plan. Executing the plan then costs nothing. The call names Airflow's tables in
-- constants, so PostgreSQL makes the plan anew after one of them has changed.
--
-- It reads the catalogs and locks nothing.

CREATE OR REPLACE FUNCTION dagbump.tables_fit(tables regclass[]) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SECURITY INVOKER
SET search_path = @airflow_schema@, pg_temp
AS $tables_fit$
#variable_conflict use_column
DECLARE
    required CONSTANT jsonb := @include:required_columns@;
    airflow_schema CONSTANT text := @airflow_schema_literal@;
    owner CONSTANT oid := @include:owner_of_schema@;
    missing text;
    findings text;
BEGIN
    SELECT pg_catalog.string_agg(wanted.called, ', ' ORDER BY wanted.called) INTO missing
    FROM (
        @include:columns@
    ) AS wanted
    WHERE wanted.type IS NULL;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'Airflow''s tables have changed since dagbump was installed for those of Airflow %; missing: %',
            @airflow_releases_literal@, missing
            USING ERRCODE = 'DBU02', HINT = 'Run: dagbump upgrade. It installs the functions for these tables, or says what to do.';
    END IF;
    findings := (
        @include:tables_of_strangers@
    );
    IF findings IS NOT NULL THEN
        RAISE EXCEPTION 'these are not the tables of Airflow that dagbump was installed for: %', findings
            USING ERRCODE = 'DBU02',
            HINT = 'Find out who made them. If they are right, make them belong to the owner of schema dagbump. Then run: dagbump upgrade.';
    END IF;
    @include:refuse_triggers_of_strangers@
    RETURN TRUE;
END
$tables_fit$;

COMMENT ON FUNCTION dagbump.tables_fit(regclass[]) IS
'Internal: raises an error if Airflow''s tables are not those that the functions were made for.

The functions that read these tables call it first, with the tables as constants, so that the plan of the
call depends on them. It looks at all tables, whichever it is given, and answers true. It is declared
IMMUTABLE, so the planner calls it once per plan. A bump that reuses its plan pays nothing for it.
It reads the catalogs. Errors: DBU02 if a column is missing, or if a table, or the function of a trigger on
task_instance, belongs neither to the owner nor to a superuser.';

REVOKE ALL ON FUNCTION dagbump.tables_fit(regclass[]) FROM PUBLIC;
