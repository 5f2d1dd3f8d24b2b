"""Support of the tests: a PostgreSQL, Airflow's own schema in it, and fleets of runs."""
