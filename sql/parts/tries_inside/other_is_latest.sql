-- Takes: nothing.
-- True if Airflow takes another version of the DAG for the latest. FALSE, because Airflow takes the highest
-- version_number, as we do.
FALSE
