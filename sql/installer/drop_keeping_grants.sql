-- Drops a function whose result gets other columns, because CREATE OR REPLACE refuses that change. It remembers
-- the grants until the end of the transaction. restore_grants.sql gives them back.

DO $drop_keeping_grants$
DECLARE
    function record;
    grants text;
BEGIN
    FOR function IN
        SELECT proc.oid::regprocedure AS signature, proc.proname, proc.proowner, proc.proacl
        FROM pg_catalog.pg_proc AS proc
        JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = proc.pronamespace
        WHERE namespace.nspname::text = 'dagbump' AND proc.proname::text = @name_literal@
    LOOP
        SELECT
            pg_catalog.string_agg(
                pg_catalog.format(
                    'GRANT EXECUTE ON ROUTINE dagbump.%I TO %I%s;',
                    function.proname,
                    pg_catalog.pg_get_userbyid(item.grantee),
                    CASE WHEN item.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
                ),
                ''
            )
        INTO grants
        FROM pg_catalog.aclexplode(function.proacl) AS item
        WHERE item.grantee NOT IN (0::oid, function.proowner);

        PERFORM pg_catalog.set_config(
            'dagbump.grants',
            (
                coalesce(nullif(pg_catalog.current_setting('dagbump.grants', TRUE), ''), '[]')::jsonb
                || pg_catalog.jsonb_build_object('function', function.proname::text, 'grants', grants)
            )::text,
            TRUE
        );
        EXECUTE 'DROP ROUTINE ' || function.signature::text;
    END LOOP;
END
$drop_keeping_grants$;
