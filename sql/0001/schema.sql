-- The schema `dagbump`, which migrations/env.py has made to hold Alembic's version table.

COMMENT ON SCHEMA dagbump IS
'dagbump keeps task_instance.dag_version_id of Airflow''s unfinished task instances at the newest version of their DAG.
Start with: SELECT * FROM dagbump.preview();  and \df+ dagbump.*
Owned by the role that ran the migration; nothing in it is granted to PUBLIC.';

REVOKE ALL ON SCHEMA dagbump FROM PUBLIC;
