-- Takes: run, older, needs_verify, versions_taken, versions_held.
-- Puts the version of the run into one of the two, or, where nothing can be moved, into neither.
IF NOT run.dag_version_id = ANY (versions_taken) AND NOT run.dag_version_id = ANY (versions_held) THEN
    @include:refuse_read_only@
    CASE dagbump.take_version(run.dag_version_id, run.dag_id, run.run_id, older, needs_verify)
        WHEN TRUE THEN
            versions_taken := pg_catalog.array_append(versions_taken, run.dag_version_id);
        WHEN FALSE THEN
            versions_held := pg_catalog.array_append(versions_held, run.dag_version_id);
        ELSE
            NULL;
    END CASE;
END IF;
