-- Takes: nothing.
-- The columns of dagbump.history that are not as history.sql creates them: missing, of another type, or NOT NULL
-- (only the key may be that). Types are compared by their name in the catalog, because format_type quotes
-- it if quote_all_identifiers is on.
SELECT wanted.attname, wanted.type
FROM (
    VALUES
    ('bumped_at', 'timestamptz'),
    ('bumped_by', 'text'),
    ('application_name', 'text'),
    ('dag_run_id', 'int8'),
    ('dag_id', 'text'),
    ('run_id', 'text'),
    ('from_versions', 'jsonb'),
    ('dag_version_id', 'uuid'),
    ('version_number', 'int4'),
    ('bumped', 'int4'),
    ('caller', 'text'),
    ('id', 'uuid')
) AS wanted (attname, type)
WHERE NOT EXISTS (
    SELECT FROM pg_catalog.pg_attribute AS attribute
    JOIN pg_catalog.pg_type AS type ON type.oid = attribute.atttypid
    WHERE attribute.attrelid = pg_catalog.to_regclass('dagbump.history')::oid
    AND attribute.attname::text = wanted.attname
    AND type.typnamespace = 'pg_catalog'::regnamespace::oid
    AND type.typname::text = wanted.type
    AND attribute.atttypmod = -1
)
UNION ALL
SELECT attribute.attname::text, NULL
FROM pg_catalog.pg_attribute AS attribute
WHERE attribute.attrelid = pg_catalog.to_regclass('dagbump.history')::oid
AND attribute.attnum > 0
AND attribute.attnotnull
AND attribute.attname::text <> 'id'
