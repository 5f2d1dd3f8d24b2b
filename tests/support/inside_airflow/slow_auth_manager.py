"""Airflow's simple auth manager, as slow as one that asks another server for each DAG.

Run by Airflow, which imports it from its configuration folder.
"""

import os
import time
from pathlib import Path
from typing import Any

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

_QUESTIONS = Path(os.environ["AIRFLOW_HOME"]) / "questions"


class SlowAuthManager(SimpleAuthManager):
    """Takes 40 ms for a question about a DAG, and writes a byte to a file for each."""

    def is_authorized_dag(self, **question: Any) -> bool:
        with _QUESTIONS.open("ab") as questions:
            questions.write(b"?")
        time.sleep(0.04)
        return bool(super().is_authorized_dag(**question))
