-- Takes: nothing.
-- The schema of the Airflow that the installed bump works on. It is read from the search_path of bump, because the
-- search_path decides which tables bump uses.
-- NULL if there is no bump, or if that schema was renamed or dropped. The setting is quoted if
-- quote_all_identifiers was on during the upgrade.
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
)
