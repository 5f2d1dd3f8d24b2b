-- Gives back the grants that drop_keeping_grants.sql remembered in this transaction, except for a function that the
-- target revision does not have. Then it grants the new objects to the operators that remember_operators.sql remembered.

DO $restore_grants$
DECLARE
    taken record;
    operator text;
BEGIN
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
