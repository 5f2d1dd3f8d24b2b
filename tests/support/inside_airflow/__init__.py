"""Scripts that `support.releases.worker` starts with Airflow's own Python, and the modules that they import."""
