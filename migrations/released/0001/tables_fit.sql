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
    required CONSTANT jsonb := '{
        "backfill": {"id": "integer", "dag_id": "text"},
        "backfill_dag_run": {"backfill_id": "integer", "dag_run_id": "integer", "sort_ordinal": "integer"},
        "dag": {"dag_id": "text", "is_paused": "boolean", "is_stale": "boolean"},
        "dag_run": {
            "id": "integer", "dag_id": "text", "run_id": "text", "run_type": "text", "logical_date": "timestamptz",
            "state": "text", "bundle_version": "text", "created_dag_version_id": "uuid", "run_after": "timestamptz",
            "last_scheduling_decision": "timestamptz", "backfill_id": "integer"
        },
        "dag_version": {"id": "uuid", "dag_id": "text", "version_number": "integer", "created_at": "timestamptz"},
        "serialized_dag": {"dag_version_id": "uuid", "data": "json"},
        "task_instance": {
            "dag_id": "text", "run_id": "text", "task_id": "text", "map_index": "integer", "state": "text",
            "dag_version_id": "uuid", "updated_at": "timestamptz"
        },
        "task_instance_history": {"dag_id": "text", "run_id": "text", "dag_version_id": "uuid"}
    }'::jsonb;
    airflow_schema CONSTANT text := @airflow_schema_literal@;
    missing text;
BEGIN
    SELECT pg_catalog.string_agg(wanted.called, ', ' ORDER BY wanted.called) INTO missing
    FROM (
        -- Each column that is required: its table, and its type there; NULL where there is no such column.
        --   fits       the type is of the kind that is required; true where there is no such column
        SELECT
            wanted.relation || '.' || wanted.attribute AS called,
            pg_catalog.format_type(found.atttypid, found.atttypmod) AS type,
            wanted.kind,
            found.atttypid IS NULL OR wanted.kind = coalesce(
                CASE type.typname::text
                    WHEN 'varchar' THEN 'text'
                    WHEN 'int4' THEN 'integer'
                    WHEN 'int8' THEN 'integer'
                    WHEN 'bool' THEN 'boolean'
                    WHEN 'jsonb' THEN 'json'
                    ELSE type.typname::text
                END,
                ''
            ) AS fits
        FROM (
            SELECT relation.key AS relation, attribute.key AS attribute, attribute.value AS kind
            FROM pg_catalog.jsonb_each(required) AS relation
            CROSS JOIN LATERAL pg_catalog.jsonb_each_text(relation.value) AS attribute
        ) AS wanted
        LEFT JOIN pg_catalog.pg_attribute AS found
            ON found.attrelid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', airflow_schema, wanted.relation))::oid
            AND found.attname::text = wanted.attribute
            AND NOT found.attisdropped
        LEFT JOIN pg_catalog.pg_type AS type
            ON type.oid = found.atttypid AND type.typnamespace = 'pg_catalog'::regnamespace::oid
    ) AS wanted
    WHERE wanted.type IS NULL;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'Airflow''s tables have changed since dagbump was installed for those of Airflow %; missing: %',
            '3.0 to 3.3', missing
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
