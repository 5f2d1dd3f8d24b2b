-- Gives back what drop_keeping_grants.sql has taken, if it has, in this transaction.

DO $restore_grants$
BEGIN
    IF pg_catalog.current_setting('dagbump.grants', TRUE) <> '' THEN
        EXECUTE pg_catalog.current_setting('dagbump.grants');
        PERFORM pg_catalog.set_config('dagbump.grants', '', TRUE);
    END IF;
END
$restore_grants$;
