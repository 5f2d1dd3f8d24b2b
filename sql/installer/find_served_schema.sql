-- The schema of the Airflow that dagbump serves in this database; whether schema dagbump belongs to the owner of the
-- Airflow tables in schema @airflow_schema@ (NULL if there are none); whether it belongs to the current role, or that is
-- a superuser; its owner; and the current role. No row if there is no schema dagbump.
SELECT
    @include:served_schema@ AS served,
    namespace.nspowner = @include:owner_of_airflow@ AS by_owner,
    role.oid = namespace.nspowner OR role.rolsuper AS by_current_role,
    pg_catalog.pg_get_userbyid(namespace.nspowner)::text AS belongs_to,
    CURRENT_USER::text AS asked_by
FROM pg_catalog.pg_namespace AS namespace
JOIN pg_catalog.pg_roles AS role ON role.rolname = CURRENT_USER
WHERE namespace.nspname::text = 'dagbump'
