-- Takes: run, versions_taken, versions_held.
-- Puts the version of the run into one of the two; asks once per call.
IF NOT run.dag_version_id = ANY (versions_taken || versions_held) THEN
    IF dagbump.take_version(run.dag_version_id) THEN
        versions_taken := versions_taken || run.dag_version_id;
    ELSE
        versions_held := versions_held || run.dag_version_id;
    END IF;
END IF;
