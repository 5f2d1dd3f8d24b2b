-- Drops the named functions and procedures of schema dagbump, with any arguments.

DO $drop_functions$
DECLARE
    routine regprocedure;
BEGIN
    FOR routine IN
        SELECT proc.oid::regprocedure
        FROM pg_catalog.pg_proc AS proc
        JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = proc.pronamespace
        WHERE namespace.nspname::text = 'dagbump' AND proc.proname::text = ANY (@names_literal@::text[])
    LOOP
        EXECUTE 'DROP ROUTINE ' || routine::text;
    END LOOP;
END
$drop_functions$;
