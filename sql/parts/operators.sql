-- Takes: nothing.
-- The roles to which everything that an operator needs was granted directly, not through another role.
SELECT role.rolname::text AS name, role.oid
FROM pg_catalog.pg_roles AS role
WHERE role.oid IN (
    SELECT acl.grantee
    FROM pg_catalog.pg_proc AS proc
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = proc.pronamespace
    CROSS JOIN LATERAL pg_catalog.aclexplode(proc.proacl) AS acl
    WHERE namespace.nspname::text = 'dagbump' AND proc.proname::text = 'bump' AND acl.grantee <> proc.proowner
)
AND NOT EXISTS (
    SELECT FROM (
        @include:objects_for_operators@
    ) AS wanted
    WHERE NOT EXISTS (
        SELECT FROM pg_catalog.aclexplode(wanted.acl) AS acl
        WHERE acl.grantee = role.oid AND acl.privilege_type = wanted.privilege
    )
)
