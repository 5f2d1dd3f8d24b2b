-- Takes: airflow_schema, served.
IF served <> airflow_schema
    AND pg_catalog.to_regclass(pg_catalog.quote_ident(served) || '.task_instance') IS NOT NULL THEN
    RAISE EXCEPTION 'dagbump is installed in this database for the Airflow in schema "%", not for that in "%"',
        served, airflow_schema
        USING ERRCODE = 'DBU04',
        HINT = 'One database has one dagbump, for one Airflow; name its schema with --airflow-schema. To change over: '
        'dagbump downgrade, and then dagbump upgrade, with the schema of each.';
END IF;
