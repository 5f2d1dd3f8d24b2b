-- Takes: history_is_whole.
-- Refuses to move what cannot be recorded. Looked at once per call, and only by one that moves something.
-- A lock on the whole table (VACUUM FULL, CREATE INDEX) is an error: a scheduler must not wait for one.
IF NOT history_is_whole THEN
    IF EXISTS (
        @include:altered_history@
    ) THEN
        RAISE EXCEPTION 'the table dagbump.history is missing, or has been altered; nothing was moved'
            USING ERRCODE = 'DBU05', HINT = 'Run: dagbump upgrade, which makes it again and keeps what it holds.';
    END IF;
    EXECUTE 'LOCK TABLE dagbump.history IN ROW EXCLUSIVE MODE NOWAIT';
    history_is_whole := TRUE;
END IF;
