-- Takes: chosen, dag_ids, limited, examined_only, by_index, report_all.
-- The examined runs that have stale TIs or are unverified; with report_all, all examined runs. They come
-- in the order of limited, if that is not NULL. It reads every TI of the runs, once. With by_index, it reads only
-- two TIs of a run that has nothing to do.
SELECT run.*, verdict.verified, verdict.any_stale
FROM (
    @include:judged_runs@
) AS run
CROSS JOIN LATERAL (
    -- Bit 1: a TI is on the latest version. Bit 2: a TI is stale.
    SELECT
        CASE
            WHEN by_index AND @include:all_on_latest@ THEN 1
            ELSE (
                SELECT
                    coalesce(
                        pg_catalog.bit_or(
                            CASE
                                WHEN ti.dag_version_id = run.dag_version_id THEN 1
                                WHEN @include:stale@ THEN 2
                                ELSE 0
                            END
                        ),
                        0
                    )
                FROM ONLY @airflow_schema@.task_instance AS ti
                WHERE @include:of_run@
            )
        END AS bits
    FROM (VALUES (run.dag_version_id)) AS latest (id)
    OFFSET 0 -- keeps the planner from evaluating bits twice per run
) AS tis
CROSS JOIN LATERAL (
    SELECT
        (tis.bits & 2) <> 0 AS any_stale,
        (tis.bits & 1) <> 0 OR @include:in_past_tries@ AS verified
) AS verdict
WHERE report_all OR verdict.any_stale OR NOT verdict.verified
ORDER BY
    pg_catalog.array_position(limited, run.dag_run_id),
    run.last_scheduling_decision NULLS FIRST,
    run.run_after,
    run.dag_run_id
