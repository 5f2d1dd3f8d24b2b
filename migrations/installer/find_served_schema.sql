-- The schema of the Airflow that dagbump serves in this database, and whether schema dagbump belongs to the owner of the
-- Airflow tables in schema @airflow_schema@ (NULL where there are none); and who asks. No row: there is no schema dagbump.
SELECT
    (
        SELECT namespace.nspname::text
        FROM pg_catalog.pg_proc AS proc
        JOIN pg_catalog.pg_namespace AS own ON own.oid = proc.pronamespace AND own.nspname::text = 'dagbump'
        CROSS JOIN LATERAL pg_catalog.unnest(proc.proconfig) AS config (setting)
        JOIN pg_catalog.pg_namespace AS namespace ON namespace.nspname::text = CASE
            WHEN config.setting ~ '^search_path=.*, "?pg_temp"?$' THEN (
                pg_catalog.parse_ident(pg_catalog.substring(config.setting, '^search_path=(.*), "?pg_temp"?$'))
            )[1]
        END
        WHERE proc.proname::text = 'bump'
    ) AS served,
    namespace.nspowner = (
        SELECT class.relowner
        FROM pg_catalog.pg_class AS class
        WHERE class.oid = pg_catalog.to_regclass(@task_instance_literal@)::oid
    ) AS by_owner,
    pg_catalog.pg_get_userbyid(namespace.nspowner)::text AS belongs_to,
    CURRENT_USER::text AS asked_by
FROM pg_catalog.pg_namespace AS namespace
WHERE namespace.nspname::text = 'dagbump'
