-- Takes: nothing.
-- The schema that the installed bump works on: its search_path, which it cannot lie about, says so.
-- NULL where there is no bump, or that schema has been renamed or dropped. (Quoted or not: that
-- depends on quote_all_identifiers, at the time of the upgrade.)
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
