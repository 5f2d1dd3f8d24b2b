-- Takes: findings, required, airflow_schema.
-- Which of Airflow's tables are no plain ones, as text; NULL: none. (A row's address, by which bump writes, is unique in one
-- physical table only.)
SELECT pg_catalog.string_agg(class.relname::text, ', ' ORDER BY class.relname::text) INTO findings
FROM pg_catalog.jsonb_object_keys(required) AS wanted (relation)
JOIN pg_catalog.pg_class AS class
    ON class.oid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', airflow_schema, wanted.relation))::oid
WHERE class.relkind::text <> 'r'
OR EXISTS (
    SELECT FROM pg_catalog.pg_inherits AS inherits WHERE class.oid IN (inherits.inhrelid, inherits.inhparent)
);
