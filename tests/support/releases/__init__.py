"""Airflow's releases: an environment of each, processes, a deployment and DAGs of it. Runs under the tests' Python."""
