-- Takes: nothing.
-- The columns of the tables in schema dagbump, in the form of objects_of_schema. A right on a column is granted apart
-- from the rights on its table.
SELECT
    class.oid,
    'COLUMN' AS object_type,
    pg_catalog.format('%s (%s)', class.relname, attribute.attname) AS name,
    'SELECT' AS privilege,
    attribute.attacl AS acl
FROM pg_catalog.pg_class AS class
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = class.oid
WHERE namespace.nspname::text = 'dagbump' AND class.relkind::text = 'r' AND NOT attribute.attisdropped
