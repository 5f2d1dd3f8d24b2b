-- Takes: run, older, needs_verify, versions_taken, versions_locked.
-- Adds the version of the run to one of the two arrays, or to neither if nothing can be moved.
IF NOT run.dag_version_id = ANY (versions_taken) AND NOT run.dag_version_id = ANY (versions_locked) THEN
    CASE dagbump.take_version(run.dag_version_id, run.dag_id, run.run_id, older, needs_verify)
        WHEN TRUE THEN
            versions_taken := pg_catalog.array_append(versions_taken, run.dag_version_id);
        WHEN FALSE THEN
            versions_locked := pg_catalog.array_append(versions_locked, run.dag_version_id);
        ELSE
            NULL;
    END CASE;
END IF;
