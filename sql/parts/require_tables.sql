-- Takes: nothing.
-- Raises an error if a migration has changed Airflow's tables since the upgrade. The planner replaces the call by TRUE.
IF NOT dagbump.tables_fit(@task_instance_literal@::regclass) THEN
    RETURN;
END IF;
