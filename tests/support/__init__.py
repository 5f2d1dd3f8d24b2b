"""What the tests stand on: a PostgreSQL, Airflow's own schema in it, and fleets of runs."""
