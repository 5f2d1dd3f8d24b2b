-- Takes: nothing.
-- The owner of Airflow's task_instance, an oid; NULL where that table is not there.
(
    SELECT class.relowner
    FROM pg_catalog.pg_class AS class
    WHERE class.oid = pg_catalog.to_regclass(@task_instance_literal@)::oid
)
