-- Everything with the name of the optional index, in any schema: whether its definition is that of the optional index,
-- whether it is valid, whether Airflow's tables still have the shape that it was built for, and whether the current
-- role may act as its owner.
SELECT
    namespace.nspname::text AS schema,
    @include:defines_optional_index@ AS ours,
    index.indisvalid AS valid,
    @include:optional_index_fits@ AS fits,
    pg_catalog.pg_has_role(class.relowner, 'MEMBER') AS mine
FROM pg_catalog.pg_class AS class
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
LEFT JOIN pg_catalog.pg_index AS index ON index.indexrelid = class.oid
LEFT JOIN pg_catalog.pg_class AS tis ON tis.oid = index.indrelid
WHERE class.relname::text = 'dagbump_ti_unfinished'
