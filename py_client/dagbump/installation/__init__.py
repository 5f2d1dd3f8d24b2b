"""What installs dagbump into a database, and what says whether it is there.

`installer` runs the Alembic environment in ``migrations/``; `state` looks at what a database holds, and needs no
Alembic; `sql_files` are what both work with, `in_migration` and `concurrent_index` what the environment and its
revisions call.
"""
