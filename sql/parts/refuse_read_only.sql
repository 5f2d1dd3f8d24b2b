-- Takes: nothing.
-- Raises an error in a read-only transaction. PostgreSQL's own error would not say what to do.
IF pg_catalog.pg_is_in_recovery() THEN
    RAISE EXCEPTION 'this server is a hot standby, and nothing can be written on it'
        USING ERRCODE = 'read_only_sql_transaction',
        HINT = 'Connect to the primary. A URL that names all servers finds it: '
        'postgresql://server1,server2/airflow?target_session_attrs=read-write';
ELSIF pg_catalog.current_setting('transaction_read_only')::boolean THEN
    RAISE EXCEPTION 'this transaction is read-only, and nothing can be written in it'
        USING ERRCODE = 'read_only_sql_transaction',
        HINT = 'This is so if default_transaction_read_only is on for the server, the database or the role. '
        'For one session: PGOPTIONS="-c default_transaction_read_only=off".';
END IF;
