-- Takes: nothing.
-- Fails where a migration of Airflow has changed its tables under the function. The planner makes TRUE of it.
IF NOT dagbump.tables_fit(@task_instance_literal@::regclass) THEN
    RETURN;
END IF;
