-- Takes: scoped (dag_run_id, dag_id, run_id, run_type, logical_date, dag_version_id; MATERIALIZED).
-- One row for each of these runs: what verify_integrity would find in it, were the DAG of that
-- version.
--
-- Each version is unpacked once. Tasks and TIs meet in a GROUP BY, not in a join, in which wrong
-- statistics could have each compared with each. The bits of a task of a run: 1 the version has
-- it, 2 it is due in this run, 4 it has a TI that is not removed, 8 a removed one, 16 an unfinished
-- one. Those of a run: 32 the version can be read, 64 it, or a TI, has something mapped.
--
-- A task without a TI is missing where it is due, because verify_integrity creates no other; one
-- whose TIs are all removed, in any case, because dates do not keep it from restoring them. A
-- removed TI beside one that is not is taken for a map index that is one too many.
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
    -- Of several arrays, unnest is syntax, and means that of pg_catalog: so it is the one name that is not qualified.
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
        OFFSET 0 -- by run: not joined, which could go through all TIs for each run
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
    -- Of most tasks there is nothing to tell: the version has it, and it has a TI that was not removed.
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
