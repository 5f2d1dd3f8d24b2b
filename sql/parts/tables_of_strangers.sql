-- Takes: required, airflow_schema, owner.
-- The names and owners of Airflow's tables that are no tables (but views, for example), or whose owner is not trusted;
-- NULL if there are none. Trusted are the given owner, the roles that it is a member of, and superusers. Any other role
-- could have its code run as the given owner.
SELECT pg_catalog.string_agg(
    class.relname::text || ' (of ' || pg_catalog.pg_get_userbyid(class.relowner)::text || ')', ', ' ORDER BY class.relname::text
)
FROM pg_catalog.jsonb_object_keys(required) AS wanted (relation)
JOIN pg_catalog.pg_class AS class
    ON class.oid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', airflow_schema, wanted.relation))::oid
JOIN pg_catalog.pg_roles AS role ON role.oid = class.relowner
WHERE class.relkind::text NOT IN ('r', 'p')
OR NOT (role.rolsuper OR pg_catalog.pg_has_role(owner, class.relowner, 'MEMBER'))
