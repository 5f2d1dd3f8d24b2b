-- Takes: nothing.
-- The columns of dagbump.installation that are not as installation.sql creates them: missing, of another type, or added
-- and NOT NULL, which an upgrade would not fill. installation_has_key looks at the key.
SELECT coalesce(wanted.attname, found.attname) AS attname
FROM (
    VALUES
    ('airflow_schema', 'text'),
    ('airflow_shape', 'text'),
    ('revision', 'text'),
    ('works_with_packages_from', 'text'),
    ('release', 'text'),
    ('installed_at', 'timestamptz'),
    ('installed_by', 'text'),
    ('functions', 'jsonb')
) AS wanted (attname, type)
FULL JOIN (
    SELECT attribute.attname::text AS attname, type.typname::text AS type, attribute.attnotnull
    FROM pg_catalog.pg_attribute AS attribute
    JOIN pg_catalog.pg_type AS type ON type.oid = attribute.atttypid
    WHERE attribute.attrelid = pg_catalog.to_regclass('dagbump.installation')::oid
    AND attribute.attnum > 0
    AND NOT attribute.attisdropped
    AND attribute.attname::text <> 'one_row'
) AS found ON found.attname = wanted.attname
WHERE (wanted.type IS NULL AND found.attnotnull) OR (wanted.type IS NOT NULL AND (found.type = wanted.type) IS NOT TRUE)
