-- Whatever is named as the optional index, in any schema; whether it is that, by its definition, whether it is valid, and whether Airflow's
-- tables are still those that it was made for.
SELECT
    namespace.nspname::text AS schema,
    coalesce(
        tis.relname::text = 'task_instance' AND index.indpred IS NOT NULL AND (
            SELECT pg_catalog.string_agg(attribute.attname::text, ', ' ORDER BY key.place)
            FROM pg_catalog.unnest(index.indkey::smallint[]) WITH ORDINALITY AS key (attnum, place)
            JOIN pg_catalog.pg_attribute AS attribute
                ON attribute.attrelid = index.indrelid AND attribute.attnum = key.attnum
        ) = 'dag_id, run_id, dag_version_id',
        FALSE
    ) AS ours,
    index.indisvalid AS valid,
    (pg_catalog.strpos(pg_catalog.pg_get_expr(index.indpred, index.indrelid), 'working_set') > 0) = EXISTS (
        SELECT FROM pg_catalog.pg_attribute AS attribute
        WHERE attribute.attrelid = tis.oid AND attribute.attname::text = 'working_set' AND NOT attribute.attisdropped
    ) AS fits,
    pg_catalog.pg_has_role(class.relowner, 'MEMBER') AS mine
FROM pg_catalog.pg_class AS class
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
LEFT JOIN pg_catalog.pg_index AS index ON index.indexrelid = class.oid
LEFT JOIN pg_catalog.pg_class AS tis ON tis.oid = index.indrelid
WHERE class.relname::text = 'dagbump_ti_unfinished'
