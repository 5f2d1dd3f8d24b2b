-- The schema dagbump. installer/become_owner.sql has created it.

COMMENT ON SCHEMA dagbump IS
'dagbump keeps task_instance.dag_version_id of Airflow''s unfinished task instances at the newest
version of their DAG. Start with:  SELECT * FROM dagbump.preview();
The manual:  SELECT dagbump.help();
It belongs to the role that owns Airflow''s tables. Nothing in it is granted to PUBLIC.';

REVOKE ALL ON SCHEMA dagbump FROM PUBLIC;
