-- Takes: index (of pg_index).
-- True for the optional index if it is on this table and its build has finished. Nothing may rely on an
-- index that is being built, or whose build was interrupted.
index.indexrelid = pg_catalog.to_regclass(@optional_index_literal@)::oid
AND index.indrelid = @task_instance_literal@::regclass::oid
AND index.indisvalid
AND NOT index.indcheckxmin
