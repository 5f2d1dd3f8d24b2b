-- Remembers, until the end of the transaction, who is an operator: restore_grants.sql gives them what the upgrade brings.

DO $remember_operators$
BEGIN
    PERFORM pg_catalog.set_config(
        'dagbump.operators',
        (
            SELECT coalesce(pg_catalog.jsonb_agg(operator.name), '[]')::text
            FROM (
                -- The roles that have all that an operator is granted, given to themselves by name.
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
                        -- What an operator is granted; what a later revision brings is among it by itself.
                        SELECT object.*
                        FROM (
                            -- The schema dagbump, its tables and its routines, from the catalogs.
                            --   name        without schema and arguments
                            --   privilege   what is granted on it to who may use it
                            SELECT
                                namespace.oid,
                                'SCHEMA' AS object_type,
                                'schema dagbump' AS name,
                                'USAGE' AS privilege,
                                coalesce(namespace.nspacl, pg_catalog.acldefault('n', namespace.nspowner)) AS acl
                            FROM pg_catalog.pg_namespace AS namespace
                            WHERE namespace.nspname::text = 'dagbump'
                            UNION ALL
                            SELECT
                                class.oid,
                                'TABLE',
                                class.relname::text,
                                'SELECT',
                                coalesce(class.relacl, pg_catalog.acldefault('r', class.relowner))
                            FROM pg_catalog.pg_class AS class
                            JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
                            WHERE namespace.nspname::text = 'dagbump' AND class.relkind::text = 'r'
                            UNION ALL
                            SELECT
                                proc.oid,
                                'ROUTINE',
                                proc.proname::text,
                                'EXECUTE',
                                coalesce(proc.proacl, pg_catalog.acldefault('f', proc.proowner))
                            FROM pg_catalog.pg_proc AS proc
                            JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = proc.pronamespace
                            WHERE namespace.nspname::text = 'dagbump'
                        ) AS object
                        WHERE NOT object.name IN (
                            'alembic_version', 'grant_operator', 'prune_history', 'revoke_operator', 'tables_fit', 'take_version', 'tasks_of_version',
                            'transactions_behind'
                        )
                    ) AS wanted
                    WHERE NOT EXISTS (
                        SELECT FROM pg_catalog.aclexplode(wanted.acl) AS acl
                        WHERE acl.grantee = role.oid AND acl.privilege_type = wanted.privilege
                    )
                )
            ) AS operator
        ),
        TRUE
    );
END
$remember_operators$;
