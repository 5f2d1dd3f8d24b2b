-- Takes: required, airflow_schema.
-- The names of Airflow's tables that are not plain tables; NULL if all are. bump writes by ctid, which is unique only
-- in one physical table.
SELECT pg_catalog.string_agg(class.relname::text, ', ' ORDER BY class.relname::text)
FROM pg_catalog.jsonb_object_keys(required) AS wanted (relation)
JOIN pg_catalog.pg_class AS class
    ON class.oid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', airflow_schema, wanted.relation))::oid
WHERE class.relkind::text <> 'r'
OR EXISTS (
    SELECT FROM pg_catalog.pg_inherits AS inherits WHERE class.oid IN (inherits.inhrelid, inherits.inhparent)
)
