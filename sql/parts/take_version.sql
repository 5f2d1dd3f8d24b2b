-- Takes: run, older, needs_verify, versions_taken, versions_held.
-- Adds the version of the run to one of the two arrays. If nothing can be moved, to neither.
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
