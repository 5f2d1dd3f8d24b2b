"""The values of ``caller`` in dagbump.history for calls from inside Airflow."""

from __future__ import annotations

SCHEDULER = "airflow scheduler"


def page(user: str) -> str:
    """Return the caller for the button of the page, with the user who pressed it."""
    return f"page 'Dag versions': {user}"
