"""The names of dagbump's schema and index in a database, of Airflow's tables, and the number of dagbump's lock."""

from __future__ import annotations

SCHEMA = "dagbump"
INDEX = "dagbump_ti_unfinished"

# The tables that dagbump reads in any release of Airflow.
RELATIONS = (
    "backfill",
    "backfill_dag_run",
    "dag",
    "dag_run",
    "dag_version",
    "serialized_dag",
    "task_instance",
    "task_instance_history",
)

# The key of a transaction-level advisory lock: one upgrade or downgrade at a time. Any unused number will do.
UPGRADE_LOCK = int.from_bytes(b"dagbump", "big")

# In bytes. PostgreSQL cuts off a longer name, and then does not find the object.
LONGEST_NAME = 63
