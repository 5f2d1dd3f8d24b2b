-- Takes: nothing.
-- The schema dagbump, its tables and its routines, from the catalogs.
--   object_type, called   as GRANT has them
--   name                  without schema and arguments
--   privilege             what is granted on it to who may use it
SELECT
    'SCHEMA' AS object_type,
    'dagbump' AS called,
    'schema dagbump' AS name,
    'USAGE' AS privilege,
    coalesce(namespace.nspacl, pg_catalog.acldefault('n', namespace.nspowner)) AS acl
FROM pg_catalog.pg_namespace AS namespace
WHERE namespace.nspname::text = 'dagbump'
UNION ALL
SELECT
    'TABLE',
    pg_catalog.format('dagbump.%I', class.relname),
    class.relname::text,
    'SELECT',
    coalesce(class.relacl, pg_catalog.acldefault('r', class.relowner))
FROM pg_catalog.pg_class AS class
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
WHERE namespace.nspname::text = 'dagbump' AND class.relkind::text = 'r'
UNION ALL
SELECT
    'ROUTINE',
    proc.oid::regprocedure::text,
    proc.proname::text,
    'EXECUTE',
    coalesce(proc.proacl, pg_catalog.acldefault('f', proc.proowner))
FROM pg_catalog.pg_proc AS proc
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = proc.pronamespace
WHERE namespace.nspname::text = 'dagbump'
