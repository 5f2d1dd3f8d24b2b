-- Takes: required, airflow_schema.
-- One row per required column: its name as table.column, its type, and the required kind. The type is NULL if there
-- is no such column.
--   fits       true if the type is of the required kind, or if there is no such column
SELECT
    wanted.relation || '.' || wanted.attribute AS called,
    pg_catalog.format_type(found.atttypid, found.atttypmod) AS type,
    wanted.kind,
    found.atttypid IS NULL OR wanted.kind = coalesce(
        CASE type.typname::text
            WHEN 'varchar' THEN 'text'
            WHEN 'int4' THEN 'integer'
            WHEN 'int8' THEN 'integer'
            WHEN 'bool' THEN 'boolean'
            WHEN 'jsonb' THEN 'json'
            ELSE type.typname::text
        END,
        ''
    ) AS fits
FROM (
    SELECT relation.key AS relation, attribute.key AS attribute, attribute.value AS kind
    FROM pg_catalog.jsonb_each(required) AS relation
    CROSS JOIN LATERAL pg_catalog.jsonb_each_text(relation.value) AS attribute
) AS wanted
LEFT JOIN pg_catalog.pg_attribute AS found
    ON found.attrelid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', airflow_schema, wanted.relation))::oid
    AND found.attname::text = wanted.attribute
    AND NOT found.attisdropped
LEFT JOIN pg_catalog.pg_type AS type
    ON type.oid = found.atttypid AND type.typnamespace = 'pg_catalog'::regnamespace::oid
