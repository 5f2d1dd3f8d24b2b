"""Installs dagbump into a database, and checks whether it is installed.

`installer` runs the Alembic environment in ``migrations/``. The environment and its revisions call `migration_steps`
and `concurrent_index`. `state` checks the database, without Alembic. `sql_files` and `shapes` compose the SQL for all
of them.
"""
