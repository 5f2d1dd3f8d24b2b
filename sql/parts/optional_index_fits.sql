-- Takes: index (of pg_index), tis (of pg_class: its table).
-- True if the predicate of the optional index leaves out past tries, or if Airflow does not keep them in
-- task_instance. A migration of Airflow can change that after the index was built.
(pg_catalog.strpos(pg_catalog.pg_get_expr(index.indpred, index.indrelid), 'working_set') > 0) = EXISTS (
    SELECT FROM pg_catalog.pg_attribute AS attribute
    WHERE attribute.attrelid = tis.oid AND attribute.attname::text = 'working_set' AND NOT attribute.attisdropped
)
