-- Takes: scoped (dag_run_id, dag_id, run_id, run_type, logical_date, dag_version_id; MATERIALIZED).
-- Answers one row per run: what verify_integrity would find in it. dag_version_id stands for the latest version.
--
-- Each version is unpacked once. Tasks and TIs are matched by a GROUP BY. In a join, wrong statistics could make the
-- planner compare every task with every TI.
--
-- Each piece says something about a task in a run. If task_id is NULL, it is about the run. The pieces about one task
-- are joined by bit_or, which is much cheaper than a bool_or for each fact:
--    1  in_version   the version has the task
--    2  due          the task is due in this run, by its dates
--    4  has_ti       it has a TI that is not removed
--    8  has_removed  it has a removed TI
--   16  unfinished   it has an unfinished TI
--   32  mapped       the version, or a TI of the run, is mapped
--   64  readable     the tasks of the version can be read
--
-- A task without a TI is missing only if it is due, because verify_integrity creates no other. A task whose TIs are
-- all removed is always missing, because verify_integrity restores them whatever the dates are. A removed TI beside
-- one that is not removed is taken for one with a surplus map index.
WITH versions AS MATERIALIZED (
    SELECT runs.dag_run_ids, runs.logical_dates, version.task_ids, version.start_dates, version.end_dates, version.has_mapped
    FROM (
        SELECT
            run.dag_version_id,
            pg_catalog.array_agg(run.dag_run_id) AS dag_run_ids,
            -- In a backfill, the dates of tasks do not count.
            pg_catalog.array_agg(CASE WHEN run.run_type <> 'backfill' THEN run.logical_date END) AS logical_dates
        FROM scoped AS run
        GROUP BY run.dag_version_id
    ) AS runs
    CROSS JOIN LATERAL dagbump.tasks_of_version(runs.dag_version_id) AS version
),

piece AS (
    SELECT
        run.dag_run_id,
        task.task_id COLLATE pg_catalog."C" AS task_id,
        CASE WHEN task.start_date > run.logical_date OR task.end_date < run.logical_date THEN 1 ELSE 1 + 2 END AS facts
    FROM versions AS version
    -- unnest with several arrays is grammar, not a function call, so it needs no schema.
    CROSS JOIN LATERAL unnest(version.task_ids, version.start_dates, version.end_dates) AS task (task_id, start_date, end_date)
    CROSS JOIN LATERAL unnest(version.dag_run_ids, version.logical_dates) AS run (dag_run_id, logical_date)
    UNION ALL
    SELECT run.dag_run_id, ti.task_id, ti.facts
    FROM scoped AS run
    CROSS JOIN LATERAL (
        SELECT
            ti.task_id::text COLLATE pg_catalog."C" AS task_id,
            CASE WHEN ti.state::text = 'removed' THEN 8 ELSE 4 END
            + CASE WHEN @include:unfinished@ THEN 16 ELSE 0 END
            + CASE WHEN @include:is_mapped@ THEN 32 ELSE 0 END AS facts
        FROM ONLY @airflow_schema@.task_instance AS ti
        WHERE @include:live_of_run@
        OFFSET 0 -- keeps the planner from turning this look-up per run into a join
    ) AS ti
    UNION ALL
    SELECT run.dag_run_id, NULL, CASE WHEN version.task_ids IS NULL THEN 0 WHEN version.has_mapped THEN 32 + 64 ELSE 64 END
    FROM versions AS version
    CROSS JOIN LATERAL pg_catalog.unnest(version.dag_run_ids) AS run (dag_run_id)
),

found AS (
    SELECT
        known.dag_run_id,
        known.task_id,
        (known.facts & 1) <> 0 AS in_version,
        (known.facts & 2) <> 0 AS due,
        (known.facts & 4) <> 0 AS has_ti,
        (known.facts & 8) <> 0 AS has_removed,
        (known.facts & 16) <> 0 AS unfinished,
        (known.facts & 32) <> 0 AS mapped,
        (known.facts & 64) <> 0 AS readable
    FROM (
        SELECT piece.dag_run_id, piece.task_id, pg_catalog.bit_or(piece.facts) AS facts
        FROM piece
        GROUP BY piece.dag_run_id, piece.task_id
    ) AS known
    -- Most tasks need no row: the version has the task, and it has TIs that are neither removed nor mapped.
    WHERE (known.facts & (1 + 4 + 8 + 32)) <> 1 + 4
)

SELECT
    run.dag_run_id,
    CASE WHEN run.readable THEN coalesce(run.missing_tasks, '{}') END AS missing_tasks,
    CASE WHEN run.readable THEN coalesce(run.restored_tasks, '{}') END AS restored_tasks,
    CASE WHEN run.readable THEN coalesce(run.vanished_tasks, '{}') END AS vanished_tasks,
    CASE WHEN run.readable THEN run.has_mapped END AS has_mapped
FROM (
    SELECT
        found.dag_run_id,
        pg_catalog.array_agg(found.task_id ORDER BY found.task_id) FILTER (
            WHERE found.in_version AND NOT found.has_ti AND (found.due OR found.has_removed)
        ) AS missing_tasks,
        pg_catalog.array_agg(found.task_id ORDER BY found.task_id) FILTER (
            WHERE found.in_version AND found.has_removed
        ) AS restored_tasks,
        pg_catalog.array_agg(found.task_id ORDER BY found.task_id) FILTER (
            WHERE found.unfinished AND NOT found.in_version
        ) AS vanished_tasks,
        pg_catalog.bool_or(found.readable) AS readable,
        pg_catalog.bool_or(found.mapped) AS has_mapped
    FROM found
    GROUP BY found.dag_run_id
) AS run
