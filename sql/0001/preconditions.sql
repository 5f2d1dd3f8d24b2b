-- Refuses a database that dagbump cannot serve, before anything is created in it.
--
-- Runs first in the upgrade, online and in the script of --sql alike. Errors:
--   DBU01  no Airflow tables in schema @airflow_schema@
--   DBU02  an Airflow release that dagbump does not know (Airflow 2, or a column is missing)

DO $preconditions$
DECLARE
    -- What the functions read and write; unchanged from Airflow 3.0 to 3.3.
    required CONSTANT jsonb := '{
        "dag": ["dag_id", "is_paused", "is_stale"],
        "dag_run": ["id", "dag_id", "run_id", "state", "bundle_version", "run_after", "last_scheduling_decision"],
        "dag_version": ["id", "dag_id", "version_number"],
        "serialized_dag": ["dag_version_id"],
        "backfill_dag_run": ["dag_run_id", "sort_ordinal"],
        "task_instance": ["dag_id", "run_id", "state", "dag_version_id", "updated_at"],
        "task_instance_history": ["dag_id", "run_id", "dag_version_id"]
    }';
    airflow_schema CONSTANT text := @airflow_schema_literal@;
    missing text;
BEGIN
    IF pg_catalog.to_regclass(pg_catalog.format('%I.task_instance', airflow_schema)) IS NULL THEN
        RAISE EXCEPTION 'no Airflow tables in schema "%": there is no task_instance', airflow_schema
            USING ERRCODE = 'DBU01',
            HINT = 'Name the schema (--airflow-schema NAME, or -x airflow_schema=NAME), or run airflow db migrate first.';
    END IF;

    SELECT pg_catalog.string_agg(wanted.relation || '.' || wanted.attribute, ', ' ORDER BY wanted.relation, wanted.attribute)
    INTO missing
    FROM (
        SELECT entry.key AS relation, pg_catalog.jsonb_array_elements_text(entry.value) AS attribute
        FROM pg_catalog.jsonb_each(required) AS entry
    ) AS wanted
    WHERE NOT EXISTS (
        SELECT FROM pg_catalog.pg_attribute AS attribute
        WHERE attribute.attrelid
            = pg_catalog.to_regclass(pg_catalog.format('%I.%I', airflow_schema, wanted.relation))::oid
        AND attribute.attname::text = wanted.attribute
        AND NOT attribute.attisdropped
    );

    IF missing LIKE '%task_instance.dag_version_id%' THEN
        RAISE EXCEPTION 'the Airflow tables in schema "%" are those of Airflow 2: they have no dag_version_id', airflow_schema
            USING ERRCODE = 'DBU02', HINT = 'dagbump serves Airflow 3.0 to 3.3; migrate Airflow first.';
    ELSIF missing IS NOT NULL THEN
        RAISE EXCEPTION 'the Airflow tables in schema "%" are not as in Airflow 3.0 to 3.3; missing: %', airflow_schema, missing
            USING ERRCODE = 'DBU02', HINT = 'Look for a newer dagbump that knows this Airflow.';
    END IF;
END
$preconditions$;
