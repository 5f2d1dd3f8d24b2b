-- Takes: required, airflow_schema, owner.
-- The names and owners of Airflow's tables that are not plain tables, or whose owner is not trusted; NULL if there are
-- none. Trusted are the given owner and superusers. Any other role could have its code run as the given owner.
-- Membership proves no trust: before PostgreSQL 16, a role can make any other role a member of itself.
SELECT pg_catalog.string_agg(
    class.relname::text || ' (of ' || pg_catalog.pg_get_userbyid(class.relowner)::text || ')', ', ' ORDER BY class.relname::text
)
FROM pg_catalog.jsonb_object_keys(required) AS wanted (relation)
JOIN pg_catalog.pg_class AS class
    ON class.oid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', airflow_schema, wanted.relation))::oid
JOIN pg_catalog.pg_roles AS role ON role.oid = class.relowner
WHERE class.relkind::text <> 'r'
OR NOT (role.rolsuper OR class.relowner = owner)
