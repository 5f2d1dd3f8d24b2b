-- Takes: nothing.
-- The schema of the Airflow that the installed bump works on. It is read from the search_path of bump, because the
-- search_path decides which tables bump uses.
-- NULL if there is no bump, or if that schema was renamed or dropped. There can be other functions named bump. The names
-- in the setting are quoted if quote_all_identifiers was on during the upgrade, otherwise only where they have to be.
(
    SELECT pg_catalog.min(namespace.nspname::text)
    FROM pg_catalog.pg_proc AS proc
    JOIN pg_catalog.pg_namespace AS own ON own.oid = proc.pronamespace AND own.nspname::text = 'dagbump'
    CROSS JOIN LATERAL pg_catalog.unnest(proc.proconfig) AS config (setting)
    JOIN pg_catalog.pg_namespace AS namespace ON config.setting IN (
        CASE WHEN namespace.nspname::text ~ '^[a-z_][a-z0-9_]*$' THEN 'search_path=' || namespace.nspname::text || ', pg_temp' END,
        'search_path="' || pg_catalog.replace(namespace.nspname::text, '"', '""') || '", pg_temp',
        'search_path="' || pg_catalog.replace(namespace.nspname::text, '"', '""') || '", "pg_temp"'
    )
    WHERE proc.proname::text = 'bump'
)
