-- Takes: nothing.
-- The oid of the owner of Airflow's task_instance; NULL if there is no such table. It is looked up by its name, because
-- to_regclass raises an error if the current role has no right on the schema, as an operator may have none.
(
    SELECT class.relowner
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_namespace AS airflow ON airflow.oid = class.relnamespace
    WHERE airflow.nspname::text = @airflow_schema_literal@ AND class.relname::text = 'task_instance'
)
