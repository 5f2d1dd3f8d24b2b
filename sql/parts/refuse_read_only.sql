-- Takes: nothing.
-- Raises an error in a read-only transaction. PostgreSQL's own error would not say what to do.
IF pg_catalog.current_setting('transaction_read_only')::boolean THEN
    RAISE EXCEPTION 'this transaction is read-only, and nothing can be written in it'
        USING ERRCODE = 'read_only_sql_transaction',
        HINT = 'This is so on a hot standby, and if default_transaction_read_only is on for the server, the database or '
        'the role. For one session: PGOPTIONS="-c default_transaction_read_only=off".';
END IF;
