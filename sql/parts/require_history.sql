-- Takes: history_is_whole.
-- Raises an error if the move cannot be recorded. It checks once per call, and only if something is to be moved.
-- A lock on the whole table (VACUUM FULL, CREATE INDEX) is an error too, because a scheduler must not wait for it.
IF NOT history_is_whole THEN
    IF EXISTS (
        @include:altered_history@
    ) THEN
        RAISE EXCEPTION 'the table dagbump.history is missing, or has been altered; nothing was moved'
            USING ERRCODE = 'DBU05', HINT = 'Run: dagbump upgrade. It repairs the table and keeps its rows.';
    END IF;
    LOCK TABLE dagbump.history IN ROW EXCLUSIVE MODE NOWAIT;
    history_is_whole := TRUE;
END IF;
