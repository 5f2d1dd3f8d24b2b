-- Takes: required, airflow_schema, owner.
-- The rights that the owner lacks to read Airflow's tables, to write task_instance and to lock dag_version, as GRANT
-- statements; NULL if it lacks none. (A row lock needs UPDATE on any column.)
SELECT
    pg_catalog.string_agg(
        pg_catalog.format('GRANT %s TO %I;', lacking.what, pg_catalog.pg_get_userbyid(owner)), ' ' ORDER BY lacking.what
    )
FROM (
    SELECT pg_catalog.format('USAGE ON SCHEMA %I', airflow_schema) AS what
    FROM pg_catalog.pg_namespace AS namespace
    WHERE namespace.nspname::text = airflow_schema
    AND NOT pg_catalog.has_schema_privilege(owner, namespace.oid, 'USAGE')
    UNION ALL
    SELECT pg_catalog.format('%s ON TABLE %I.%I', privilege.name, airflow_schema, class.relname)
    FROM pg_catalog.jsonb_object_keys(required) AS wanted (relation)
    JOIN pg_catalog.pg_class AS class
        ON class.oid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', airflow_schema, wanted.relation))::oid
    CROSS JOIN (VALUES ('SELECT'), ('UPDATE')) AS privilege (name)
    WHERE CASE
        WHEN privilege.name = 'SELECT' OR wanted.relation = 'task_instance'
            THEN NOT pg_catalog.has_table_privilege(owner, class.oid, privilege.name)
        ELSE wanted.relation = 'dag_version' AND NOT pg_catalog.has_any_column_privilege(owner, class.oid, privilege.name)
    END
) AS lacking
