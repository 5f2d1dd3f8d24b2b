-- Takes: chosen, dag_ids, limited, examined_only, by_index, report_all.
-- The examined runs that have stale TIs or are unverified; with report_all, all examined runs. They come
-- in the order of limited, if that is not NULL. It reads every TI of the runs, once. With by_index, it reads only
-- two TIs of a run that has nothing to do.
SELECT run.*, verdict.verified, tis.any_stale
FROM (
    @include:judged_runs@
) AS run
CROSS JOIN LATERAL (
    SELECT (by_index AND @include:all_on_latest@) IS TRUE AS all_on_latest
    FROM (VALUES (run.dag_version_id)) AS latest (id)
    OFFSET 0 -- keeps the planner from evaluating it twice per run
) AS index
CROSS JOIN LATERAL (
    SELECT
        index.all_on_latest OR coalesce(pg_catalog.bool_or(ti.dag_version_id = run.dag_version_id), FALSE) AS any_on_latest,
        coalesce(pg_catalog.bool_or(@include:stale@), FALSE) AS any_stale
    FROM ONLY @airflow_schema@.task_instance AS ti
    WHERE NOT index.all_on_latest AND @include:of_run@
) AS tis
CROSS JOIN LATERAL (
    SELECT tis.any_on_latest OR @include:in_past_tries@ AS verified
) AS verdict
WHERE report_all OR tis.any_stale OR NOT verdict.verified
ORDER BY
    pg_catalog.array_position(limited, run.dag_run_id),
    run.last_scheduling_decision NULLS FIRST,
    run.run_after,
    run.dag_run_id
