-- The schema of the Airflow that dagbump serves in this database; whether schema dagbump belongs to the owner of the
-- Airflow tables in schema @airflow_schema@ (NULL if there are none); its owner; and the current role. No row if there
-- is no schema dagbump.
SELECT
    @include:served_schema@ AS served,
    namespace.nspowner = @include:owner_of_airflow@ AS by_owner,
    pg_catalog.pg_get_userbyid(namespace.nspowner)::text AS belongs_to,
    CURRENT_USER::text AS asked_by
FROM pg_catalog.pg_namespace AS namespace
WHERE namespace.nspname::text = 'dagbump'
