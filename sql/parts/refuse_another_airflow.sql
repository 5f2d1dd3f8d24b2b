-- Takes: airflow_schema, served.
-- Raises an error if the installed dagbump serves another Airflow, and that one still exists.
IF served <> airflow_schema
    AND pg_catalog.to_regclass(pg_catalog.quote_ident(served) || '.task_instance') IS NOT NULL THEN
    RAISE EXCEPTION 'dagbump is installed in this database for the Airflow in schema "%", not for that in "%"',
        served, airflow_schema
        USING ERRCODE = 'DBU04',
        HINT = 'One database can have one dagbump, for one Airflow. Name its schema with --airflow-schema. To serve the other one: '
        'dagbump downgrade with the schema of the first, then dagbump upgrade with that of the other.';
END IF;
