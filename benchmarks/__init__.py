"""Measures dagbump beside stock Airflow and beside the least that PostgreSQL can do: ``make bench``."""
