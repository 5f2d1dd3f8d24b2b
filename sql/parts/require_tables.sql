-- Takes: nothing.
-- Raises an error if a migration has changed Airflow's tables since the upgrade, or somebody has replaced one. The planner
-- replaces the calls by TRUE. PostgreSQL plans a call anew after a table that it names has changed. The first one names
-- only task_instance, because a call that names a missing table would raise another error.
IF NOT dagbump.tables_fit(ARRAY[@task_instance_literal@::regclass]) THEN
    RETURN;
END IF;
IF NOT dagbump.tables_fit(@include:tables_read@) THEN
    RETURN;
END IF;
