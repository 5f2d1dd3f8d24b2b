-- Takes: nothing.
-- The oid of the owner of Airflow's task_instance; NULL if there is no such table.
(
    SELECT class.relowner
    FROM pg_catalog.pg_class AS class
    WHERE class.oid = pg_catalog.to_regclass(@task_instance_literal@)::oid
)
