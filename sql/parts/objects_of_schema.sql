-- Takes: nothing.
-- The schema dagbump, its tables and its routines, from the catalogs.
--   name        without schema and arguments
--   privilege   the privilege that a role needs to use it
SELECT
    namespace.oid,
    'SCHEMA' AS object_type,
    'schema dagbump' AS name,
    'USAGE' AS privilege,
    coalesce(namespace.nspacl, pg_catalog.acldefault('n', namespace.nspowner)) AS acl
FROM pg_catalog.pg_namespace AS namespace
WHERE namespace.nspname::text = 'dagbump'
UNION ALL
SELECT
    class.oid,
    'TABLE',
    class.relname::text,
    'SELECT',
    coalesce(class.relacl, pg_catalog.acldefault('r', class.relowner))
FROM pg_catalog.pg_class AS class
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
WHERE namespace.nspname::text = 'dagbump' AND class.relkind::text = 'r'
UNION ALL
SELECT
    proc.oid,
    'ROUTINE',
    proc.proname::text,
    'EXECUTE',
    coalesce(proc.proacl, pg_catalog.acldefault('f', proc.proowner))
FROM pg_catalog.pg_proc AS proc
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = proc.pronamespace
WHERE namespace.nspname::text = 'dagbump'
