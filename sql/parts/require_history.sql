-- Takes: history_is_whole.
-- Refuses to move what cannot be recorded. Looked at once per call, and only by one that moves something.
IF NOT history_is_whole THEN
    IF EXISTS (
        @include:altered_history@
    ) THEN
        RAISE EXCEPTION 'the table dagbump.history is missing, or has been altered; nothing was moved'
            USING ERRCODE = 'DBU05', HINT = 'Run: dagbump upgrade, which makes it again and keeps what it holds.';
    END IF;
    history_is_whole := TRUE;
END IF;
