-- Whatever is named as the optional index, in any schema; whether it is that, by its definition, whether it is valid, and whether Airflow's
-- tables are still those that it was made for.
SELECT
    namespace.nspname::text AS schema,
    @include:defines_optional_index@ AS ours,
    index.indisvalid AS valid,
    @include:fits_these_tables@ AS fits,
    pg_catalog.pg_has_role(class.relowner, 'MEMBER') AS mine
FROM pg_catalog.pg_class AS class
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
LEFT JOIN pg_catalog.pg_index AS index ON index.indexrelid = class.oid
LEFT JOIN pg_catalog.pg_class AS tis ON tis.oid = index.indrelid
WHERE class.relname::text = 'dagbump_ti_unfinished'
