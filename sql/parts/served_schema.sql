-- Takes: nothing.
-- The schema that the installed bump works on: its search_path, which it cannot lie about, says
-- so. NULL where there is no bump, or that schema has been renamed or dropped.
(
    SELECT namespace.nspname::text
    FROM pg_catalog.pg_proc AS proc
    JOIN pg_catalog.pg_namespace AS own ON own.oid = proc.pronamespace AND own.nspname::text = 'dagbump'
    JOIN pg_catalog.pg_namespace AS namespace
        ON pg_catalog.format('search_path=%I, pg_temp', namespace.nspname) = ANY (proc.proconfig)
    WHERE proc.proname::text = 'bump'
)
