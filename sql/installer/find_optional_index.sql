-- Whatever is named as the optional index, in any schema; whether it is that, by its definition, and whether it is valid.
SELECT
    namespace.nspname::text AS schema,
    @include:defines_optional_index@ AS ours,
    index.indisvalid AS valid,
    pg_catalog.pg_has_role(class.relowner, 'MEMBER') AS mine
FROM pg_catalog.pg_class AS class
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
LEFT JOIN pg_catalog.pg_index AS index ON index.indexrelid = class.oid
LEFT JOIN pg_catalog.pg_class AS tis ON tis.oid = index.indrelid
WHERE class.relname::text = 'dagbump_ti_unfinished'
