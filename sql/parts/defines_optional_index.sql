-- Takes: index (of pg_index), tis (of pg_class: its table).
-- True if this is the optional index by its definition, valid or not.
coalesce(
    tis.relname::text = 'task_instance' AND index.indpred IS NOT NULL AND (
        SELECT pg_catalog.string_agg(attribute.attname::text, ', ' ORDER BY key.place)
        FROM pg_catalog.unnest(index.indkey::smallint[]) WITH ORDINALITY AS key (attnum, place)
        JOIN pg_catalog.pg_attribute AS attribute
            ON attribute.attrelid = index.indrelid AND attribute.attnum = key.attnum
    ) = 'dag_id, run_id, dag_version_id',
    FALSE
)
