"""Who calls dagbump from inside Airflow, as dagbump.history has it."""

from __future__ import annotations

SCHEDULER = "airflow scheduler"


def page(user: str) -> str:
    """Return what the button of the page records of who pressed it."""
    return f"page 'DAG versions': {user}"
