-- Refuses a database that dagbump cannot serve, before it reads anything in schema dagbump or creates anything.
--
-- It runs first in every upgrade, online and in the script of --sql, and reads only catalogs. Errors:
--   DBU01  no Airflow tables in schema @airflow_schema@
--   DBU02  Airflow tables that dagbump does not know (Airflow 2, a missing column, partitions, inheritance), or that
--          belong to several roles, or have a trigger of another role
--   DBU03  schema dagbump belongs to another role, or holds something that dagbump did not create
--   DBU04  dagbump serves another Airflow in this database
--   25006  the transaction is read-only
--   42501  the role does not own Airflow's tables, or may not create a schema; or the owner may not read all the tables

DO $refuse_upgrade$
DECLARE
    required CONSTANT jsonb := @include:required_columns@;
    airflow_schema CONSTANT text := @airflow_schema_literal@;
    owner CONSTANT oid := @include:owner_of_airflow@;
    served CONSTANT text := @include:served_schema@;
    -- From PostgreSQL 16 on, SET ROLE needs more than membership.
    may_become CONSTANT text := CASE
        WHEN pg_catalog.current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER'
    END;
    missing text;
    findings text;
BEGIN
    @include:refuse_read_only@

    IF owner IS NULL THEN
        RAISE EXCEPTION 'no Airflow tables in schema "%": there is no task_instance', airflow_schema
            USING ERRCODE = 'DBU01',
            HINT = 'Name the schema (--airflow-schema NAME, or -x airflow_schema=NAME), or run airflow db migrate first.';
    END IF;

    SELECT
        pg_catalog.string_agg(wanted.called, ', ' ORDER BY wanted.called) FILTER (WHERE wanted.type IS NULL),
        pg_catalog.string_agg(wanted.called || ' is ' || wanted.type, ', ' ORDER BY wanted.called) FILTER (WHERE NOT wanted.fits)
    INTO missing, findings
    FROM (
        @include:columns@
    ) AS wanted;
    IF missing LIKE '%task_instance.dag_version_id%' THEN
        RAISE EXCEPTION 'the Airflow tables in schema "%" are those of Airflow 2: they have no dag_version_id', airflow_schema
            USING ERRCODE = 'DBU02', HINT = 'dagbump serves Airflow 3.0 to 3.4; migrate Airflow first.';
    ELSIF missing IS NOT NULL THEN
        RAISE EXCEPTION 'the Airflow tables in schema "%" are not as in Airflow %; missing: %',
            airflow_schema, @airflow_releases_literal@, missing
            USING ERRCODE = 'DBU02',
            HINT = 'Look for a newer dagbump that knows this Airflow. A script of --sql fits only the tables that --airflow-shape names.';
    ELSIF findings IS NOT NULL THEN
        RAISE EXCEPTION 'the Airflow tables in schema "%" are not as in Airflow %; of another type: %',
            airflow_schema, @airflow_releases_literal@, findings
            USING ERRCODE = 'DBU02', HINT = 'Look for a newer dagbump that knows this Airflow, or find out who has changed the column.';
    END IF;

    findings := (
        @include:tables_not_plain@
    );
    IF findings IS NOT NULL THEN
        RAISE EXCEPTION 'in schema "%" these are not plain tables, but partitioned, inherited or views: %', airflow_schema, findings
            USING ERRCODE = 'DBU02', HINT = 'dagbump works with the tables that airflow db migrate creates.';
    END IF;

    findings := (
        @include:tables_of_strangers@
    );
    IF findings IS NOT NULL THEN
        RAISE EXCEPTION 'task_instance belongs to %, and other tables of Airflow belong to another role: %',
            pg_catalog.pg_get_userbyid(owner), findings
            USING ERRCODE = 'DBU02',
            HINT = 'Find out who made them. If they are right, give all of Airflow''s tables the same owner.';
    END IF;

    @include:refuse_triggers_of_strangers@

    IF NOT pg_catalog.pg_has_role(owner, may_become) THEN
        RAISE EXCEPTION 'Airflow''s tables belong to %, and the current role, %, may not act as that role',
            pg_catalog.pg_get_userbyid(owner), CURRENT_USER
            USING ERRCODE = 'insufficient_privilege', HINT = @include:how_to_act_as_owner@;
    END IF;

    findings := (
        @include:rights_missing@
    );
    IF findings IS NOT NULL THEN
        RAISE EXCEPTION 'the owner of task_instance, %, lacks rights on Airflow''s tables that the functions need',
            pg_catalog.pg_get_userbyid(owner)
            USING ERRCODE = 'insufficient_privilege', HINT = 'Have their owner, or a superuser, run: ' || findings;
    END IF;

    IF pg_catalog.to_regnamespace('dagbump') IS NULL
        AND NOT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') THEN
        RAISE EXCEPTION 'the role % may not create a schema in database %', CURRENT_USER, pg_catalog.current_database()
            USING ERRCODE = 'insufficient_privilege',
            HINT = pg_catalog.format(
                'Have the owner of the database, or a superuser, run: GRANT CREATE ON DATABASE %I TO %I;',
                pg_catalog.current_database(), CURRENT_USER
            );
    END IF;

    @include:refuse_foreign_objects@

    @include:refuse_another_airflow@
END
$refuse_upgrade$;
