-- Takes: scoped (dag_run_id, dag_id, run_id, run_type, logical_date, dag_version_id; MATERIALIZED).
-- One row for each of these runs: what verify_integrity would find in it if its DAG were of that version.
--
-- Each version is unpacked once. Tasks and TIs are matched by a GROUP BY. In a join, wrong statistics could make the
-- planner compare every task with every TI.
--
-- Bits of a task in a run: 1 the version has it, 2 it is due in this run, 4 it has a TI that is not removed, 8 it has a
-- removed TI, 16 it has an unfinished TI. Bits of a run: 32 the version can be read, 64 the version or a TI of the run
-- is mapped.
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

pieces AS (
    SELECT
        run.dag_run_id,
        task.task_id COLLATE pg_catalog."C" AS task_id,
        CASE WHEN task.start_date > run.logical_date OR task.end_date < run.logical_date THEN 1 ELSE 3 END AS bits
    FROM versions AS version
    -- unnest with several arrays is grammar, not a function call, so it needs no schema.
    CROSS JOIN LATERAL unnest(version.task_ids, version.start_dates, version.end_dates) AS task (task_id, start_date, end_date)
    CROSS JOIN LATERAL unnest(version.dag_run_ids, version.logical_dates) AS run (dag_run_id, logical_date)
    UNION ALL
    SELECT run.dag_run_id, ti.task_id, ti.bits
    FROM scoped AS run
    CROSS JOIN LATERAL (
        SELECT
            ti.task_id::text COLLATE pg_catalog."C" AS task_id,
            @include:what_is_there@ AS bits
        FROM ONLY @airflow_schema@.task_instance AS ti
        WHERE @include:live_of_run@
        OFFSET 0 -- keeps the planner from turning this look-up per run into a join
    ) AS ti
    UNION ALL
    SELECT
        run.dag_run_id,
        NULL::text,
        CASE WHEN version.task_ids IS NULL THEN 0 WHEN version.has_mapped THEN 96 ELSE 32 END
    FROM versions AS version
    CROSS JOIN LATERAL pg_catalog.unnest(version.dag_run_ids) AS run (dag_run_id)
),

found AS (
    SELECT piece.dag_run_id, piece.task_id, pg_catalog.bit_or(piece.bits) AS bits
    FROM pieces AS piece
    GROUP BY piece.dag_run_id, piece.task_id
    -- Most tasks need no row: the version has the task, and it has a TI that is not removed.
    HAVING (pg_catalog.bit_or(piece.bits) & 77) <> 5
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
            WHERE (found.bits & 5) = 1 AND (found.bits & 10) <> 0
        ) AS missing_tasks,
        pg_catalog.array_agg(found.task_id ORDER BY found.task_id) FILTER (WHERE (found.bits & 9) = 9) AS restored_tasks,
        pg_catalog.array_agg(found.task_id ORDER BY found.task_id) FILTER (WHERE (found.bits & 17) = 16) AS vanished_tasks,
        (pg_catalog.bit_or(found.bits) & 32) <> 0 AS readable,
        (pg_catalog.bit_or(found.bits) & 64) <> 0 AS has_mapped
    FROM found
    GROUP BY found.dag_run_id
) AS run
