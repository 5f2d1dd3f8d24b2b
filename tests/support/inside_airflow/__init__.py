"""Run by Airflow's own Python: scripts that `support.releases.worker` starts, and what they import."""
