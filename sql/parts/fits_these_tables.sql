-- Takes: index (of pg_index), tis (of pg_class: its table).
-- True where the optional index leaves past tries aside, if Airflow keeps them in task_instance: a migration of Airflow
-- can change that under it.
(pg_catalog.strpos(pg_catalog.pg_get_expr(index.indpred, index.indrelid), 'working_set') > 0) = EXISTS (
    SELECT FROM pg_catalog.pg_attribute AS attribute
    WHERE attribute.attrelid = tis.oid AND attribute.attname::text = 'working_set' AND NOT attribute.attisdropped
)
