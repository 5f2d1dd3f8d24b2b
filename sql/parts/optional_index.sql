-- Takes: nothing.
-- One row: is the optional index there, on this table, and finished? While it is being built, or
-- after a build that was cut off, nothing may count on it.
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_index AS index
    WHERE index.indexrelid = pg_catalog.to_regclass(@optional_index_literal@)::oid
    AND index.indrelid = @task_instance_literal@::regclass::oid
    AND index.indisvalid
    AND NOT index.indcheckxmin
) AS is_valid
