-- Takes from new objects what default privileges have granted on them. Gives back the grants that drop_keeping_grants.sql
-- remembered in this transaction, except for a function that the target revision does not have. Then it grants the new
-- objects to the operators that remember_operators.sql remembered.

DO $restore_grants$
DECLARE
    old CONSTANT jsonb := nullif(pg_catalog.current_setting('dagbump.objects', TRUE), '')::jsonb;
    owner CONSTANT oid := @include:owner_of_schema@;
    statement text;
    taken record;
    operator text;
BEGIN
    FOR statement IN
        SELECT DISTINCT pg_catalog.format(
            'REVOKE ALL ON %s FROM %s CASCADE',
            @include:object_to_revoke_on@,
            CASE WHEN acl.grantee = 0::oid THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(acl.grantee)) END
        )
        FROM @include:granted_rights@
        WHERE acl.grantee <> owner AND NOT pg_catalog.jsonb_exists(old, object.oid::text)
    LOOP
        EXECUTE statement;
    END LOOP;
    PERFORM pg_catalog.set_config('dagbump.objects', '', TRUE);

    FOR taken IN
        SELECT item.function, item.grants
        FROM pg_catalog.jsonb_to_recordset(
            coalesce(nullif(pg_catalog.current_setting('dagbump.grants', TRUE), ''), '[]')::jsonb
        ) AS item (function text, grants text)
        WHERE item.grants IS NOT NULL
    LOOP
        IF EXISTS (
            SELECT FROM pg_catalog.pg_proc AS proc
            JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = proc.pronamespace
            WHERE namespace.nspname::text = 'dagbump' AND proc.proname::text = taken.function
        ) THEN
            EXECUTE taken.grants;
        END IF;
    END LOOP;
    PERFORM pg_catalog.set_config('dagbump.grants', '', TRUE);

    IF pg_catalog.to_regprocedure('dagbump.grant_operator(text)') IS NOT NULL THEN
        FOR operator IN
            SELECT item.name
            FROM pg_catalog.jsonb_array_elements_text(
                coalesce(nullif(pg_catalog.current_setting('dagbump.operators', TRUE), ''), '[]')::jsonb
            ) AS item (name)
        LOOP
            PERFORM dagbump.grant_operator(operator);
        END LOOP;
    END IF;
    PERFORM pg_catalog.set_config('dagbump.operators', '', TRUE);
END
$restore_grants$;
