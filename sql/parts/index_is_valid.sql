-- Takes: nothing.
-- True where the optional index is there, on this table, and finished: while it is being built, or
-- after a build that was cut off, nothing may count on it.
EXISTS (
    SELECT FROM pg_catalog.pg_index AS index
    WHERE index.indexrelid = pg_catalog.to_regclass(
        pg_catalog.format('%I.dagbump_ti_unfinished', @airflow_schema_literal@)
    )::oid
    AND index.indrelid = pg_catalog.to_regclass(pg_catalog.format('%I.task_instance', @airflow_schema_literal@))::oid
    AND index.indisvalid
    AND NOT index.indcheckxmin
)
