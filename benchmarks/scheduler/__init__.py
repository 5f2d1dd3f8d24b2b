"""What is left of a scheduler's work with the plugin, beside stock Airflow's: ``make bench-scheduler``."""
