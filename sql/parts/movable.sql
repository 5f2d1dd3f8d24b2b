-- Takes: run (the run under way), older.
-- From the stale TIs of that run, those that may be moved: on no version, or on one that was seen
-- not to be higher than the latest. So a TI that somebody moves further while this goes on stays
-- there.
FROM ONLY @airflow_schema@.task_instance AS ti
WHERE @include:of_run@
AND @include:unfinished@
AND (ti.dag_version_id IS NULL OR ti.dag_version_id = ANY (older))
