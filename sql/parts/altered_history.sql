-- Takes: nothing.
-- The columns of dagbump.history that are not as it is written: missing, of another type, or with a NOT NULL, which that
-- table has nowhere.
SELECT wanted.attname
FROM (
    VALUES
    ('bumped_at', 'timestamp with time zone'),
    ('bumped_by', 'text'),
    ('application_name', 'text'),
    ('dag_run_id', 'bigint'),
    ('dag_id', 'text'),
    ('run_id', 'text'),
    ('from_versions', 'jsonb'),
    ('dag_version_id', 'uuid'),
    ('version_number', 'integer'),
    ('bumped', 'integer')
) AS wanted (attname, type)
WHERE NOT EXISTS (
    SELECT FROM pg_catalog.pg_attribute AS attribute
    WHERE attribute.attrelid = pg_catalog.to_regclass('dagbump.history')::oid
    AND attribute.attname::text = wanted.attname
    AND pg_catalog.format_type(attribute.atttypid, attribute.atttypmod) = wanted.type
)
UNION ALL
SELECT attribute.attname::text
FROM pg_catalog.pg_attribute AS attribute
WHERE attribute.attrelid = pg_catalog.to_regclass('dagbump.history')::oid
AND attribute.attnum > 0
AND attribute.attnotnull
