-- Takes: run, older.
-- The stale TIs of the run that may be moved. They have no version, or one that is in older. None of these is higher
-- than the latest. So a TI that somebody moves to a higher version in the meantime stays there.
FROM ONLY @airflow_schema@.task_instance AS ti
WHERE @include:of_run@
AND @include:unfinished@
AND (ti.dag_version_id IS NULL OR ti.dag_version_id = ANY (older))
