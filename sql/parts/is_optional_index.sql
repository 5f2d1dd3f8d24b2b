-- Takes: index (of pg_index).
-- True for the optional index, on this table, and finished. While it is being built, or after a
-- build that was cut off, nothing may count on it.
index.indexrelid = pg_catalog.to_regclass(@optional_index_literal@)::oid
AND index.indrelid = @task_instance_literal@::regclass::oid
AND index.indisvalid
AND NOT index.indcheckxmin
