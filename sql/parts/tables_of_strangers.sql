-- Takes: required, airflow_schema, owner.
-- The names of Airflow's tables that are not tables, or that belong to a role that the owner of task_instance neither is,
-- nor is a member of, and that is no superuser; NULL if there is none. Such a role could have its code run as the owner.
SELECT pg_catalog.string_agg(
    class.relname::text || ' (of ' || pg_catalog.pg_get_userbyid(class.relowner)::text || ')', ', ' ORDER BY class.relname::text
)
FROM pg_catalog.jsonb_object_keys(required) AS wanted (relation)
JOIN pg_catalog.pg_class AS class
    ON class.oid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', airflow_schema, wanted.relation))::oid
JOIN pg_catalog.pg_roles AS role ON role.oid = class.relowner
WHERE class.relkind::text NOT IN ('r', 'p')
OR NOT (role.rolsuper OR pg_catalog.pg_has_role(owner, class.relowner, 'MEMBER'))
