-- Takes: nothing.
-- The owner of Airflow's task_instance, an oid; NULL where that table is not there.
(
    SELECT class.relowner
    FROM pg_catalog.pg_class AS class
    WHERE class.oid = pg_catalog.to_regclass(pg_catalog.format('%I.task_instance', @airflow_schema_literal@))::oid
)
