-- Takes: nothing.
-- True where Airflow takes another version of the DAG for the latest: it takes the highest version_number, as we do.
FALSE
