-- dagbump.repairable: the runs that a repair has to go through, and how much there is to do.
--
-- For dagbump.repair and the command line, once at the start of a repair. Reads
-- only: locks nothing. Looks at every TI of the running runs, twice at most.

CREATE OR REPLACE FUNCTION dagbump.repairable(dag_ids text[] DEFAULT NULL) RETURNS TABLE (
    dag_run_id bigint,
    task_instances integer,
    needs_verify boolean
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
-- Names mean Airflow's tables, whatever the caller's path; a policy that would hide rows of them is
-- an error; and the plan is made once per connection, for any argument, of index look-ups only, so
-- that it is the same with fresh, stale and no statistics.
SET search_path = @airflow_schema@, pg_temp
SET row_security = off
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $repairable$
#variable_conflict use_column
DECLARE
    examined_only CONSTANT boolean := TRUE;
    by_index CONSTANT boolean := FALSE;
    report_all CONSTANT boolean := FALSE;
    ids CONSTANT bigint[] := NULL;
    limited CONSTANT bigint[] := NULL;
BEGIN
    -- Fails where a migration of Airflow has changed its tables under the function. The planner makes TRUE of it.
    IF NOT dagbump.tables_fit(@task_instance_literal@::regclass) THEN
        RETURN;
    END IF;
    -- Refuses a list that means nothing.
    IF pg_catalog.array_ndims(dag_ids) > 1 THEN
        RAISE EXCEPTION 'dag_ids must not be an array of arrays'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL in place of the array means every DAG.';
    ELSIF pg_catalog.array_position(dag_ids, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'dag_ids must not contain NULL'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL in place of the array means every DAG.';
    END IF;

    RETURN QUERY
    SELECT run.dag_run_id, tis.stale, NOT run.verified
    FROM (
        -- The running runs that hold TIs that somebody but a scheduler may move, and the version these go to: the examined runs
        -- that are due, those left to Airflow included (verified is false), and the pinned runs with versionless TIs, whose own
        -- version is still there.
        SELECT
            run.dag_run_id,
            run.dag_id,
            run.run_id,
            run.dag_version_id,
            run.version_number,
            FALSE AS pinned,
            run.verified AND NOT (run.any_stale AND FALSE) AS verified
        FROM (
            -- The examined runs that hold stale TIs or are unverified, or with report_all all of them, in the
            -- order of the limit where there is one. Looks at every TI of the runs, once; with by_index at two
            -- TIs of each run that has nothing to do.
            SELECT run.*, verdict.verified, verdict.any_stale
            FROM (
                -- The running DAG runs, one row each: the latest version of the DAG, and what, if anything, keeps
                -- the run from being examined. The one place that says what "examined" means (limited_runs, which
                -- stops at a limit, is held to it by a test).
                --
                --   obstacle   NULL for an examined run, else why it is not one: pinned, paused, stale_dag, not_due, no_version,
                --              no_serialized_dag; with examined_only, the others are left out
                SELECT
                    run.id::bigint AS dag_run_id,
                    run.dag_id::text AS dag_id,
                    run.run_id::text AS run_id,
                    run.run_type::text AS run_type,
                    run.logical_date,
                    run.created_dag_version_id,
                    run.last_scheduling_decision,
                    run.run_after,
                    latest.id AS dag_version_id,
                    latest.version_number,
                    CASE
                        WHEN run.obstacle IS NOT NULL THEN run.obstacle
                        WHEN latest.id IS NULL THEN 'no_version'
                        WHEN serialized.dag_version_id IS NULL THEN 'no_serialized_dag'
                    END AS obstacle
                FROM (
                    SELECT
                        running.*,
                        CASE
                            -- Airflow tests bundle_version for truth: '' is as good as NULL.
                            WHEN running.bundle_version::text <> '' THEN 'pinned'
                            -- Both are nullable up to Airflow 3.1, which examines only runs where they are false.
                            WHEN dag.dag_id IS NOT NULL AND dag.is_paused IS NOT FALSE THEN 'paused'
                            WHEN dag.dag_id IS NOT NULL AND dag.is_stale IS NOT FALSE THEN 'stale_dag'
                            WHEN running.run_after > pg_catalog.now() THEN 'not_due'
                        END AS obstacle
                    FROM (
                        -- The running DAG runs among them.
                        SELECT
                            run.id,
                            run.dag_id,
                            run.run_id,
                            run.run_type,
                            run.logical_date,
                            run.bundle_version,
                            run.created_dag_version_id,
                            run.last_scheduling_decision,
                            run.run_after,
                            run.backfill_id
                        FROM @airflow_schema@.dag_run AS run
                        WHERE ids IS NULL AND run.state::text = 'running'
                        UNION ALL
                        -- Of these two the executor runs one: a list of ids costs a look-up each, not a pass over all running runs.
                        SELECT
                            run.id,
                            run.dag_id,
                            run.run_id,
                            run.run_type,
                            run.logical_date,
                            run.bundle_version,
                            run.created_dag_version_id,
                            run.last_scheduling_decision,
                            run.run_after,
                            run.backfill_id
                        FROM @airflow_schema@.dag_run AS run
                        WHERE run.id = ANY (ids) AND run.state::text = 'running'
                    ) AS running
                    LEFT JOIN LATERAL (
                        SELECT dag.dag_id, dag.is_paused, dag.is_stale
                        FROM @airflow_schema@.dag AS dag
                        WHERE dag.dag_id::text = running.dag_id::text
                        OFFSET 0 -- by run: not joined, which could go through all DAGs for each run
                    ) AS dag ON TRUE
                    WHERE dag_ids IS NULL OR running.dag_id::text = ANY (dag_ids)
                ) AS run
                LEFT JOIN LATERAL (
                    -- The latest version of its DAG: the highest version_number, whatever created_at says.
                    SELECT version.id, version.version_number
                    FROM @airflow_schema@.dag_version AS version
                    WHERE version.dag_id::text = run.dag_id::text
                    ORDER BY version.version_number DESC
                    LIMIT 1
                ) AS latest ON TRUE
                LEFT JOIN LATERAL (
                    SELECT serialized.dag_version_id -- which is unique
                    FROM @airflow_schema@.serialized_dag AS serialized
                    WHERE serialized.dag_version_id = latest.id
                    OFFSET 0 -- so here
                ) AS serialized ON TRUE
                WHERE NOT examined_only OR (run.obstacle IS NULL AND serialized.dag_version_id IS NOT NULL)
            ) AS run
            CROSS JOIN LATERAL (
                -- Bit 1 says that a TI is on the latest version, bit 2 that one is stale.
                SELECT
                    CASE
                        WHEN by_index AND (
                            SELECT ti.dag_version_id = latest.id
                            FROM ONLY @airflow_schema@.task_instance AS ti
                            WHERE ti.dag_id::text COLLATE pg_catalog."C" = run.dag_id::text
                            AND ti.run_id::text COLLATE pg_catalog."C" BETWEEN run.run_id::text AND run.run_id::text
                            AND ti.working_set IS TRUE AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
                            ORDER BY ti.run_id::text COLLATE pg_catalog."C" ASC, ti.dag_version_id ASC NULLS LAST
                            LIMIT 1
                        ) AND (
                            SELECT ti.dag_version_id = latest.id
                            FROM ONLY @airflow_schema@.task_instance AS ti
                            WHERE ti.dag_id::text COLLATE pg_catalog."C" = run.dag_id::text
                            AND ti.run_id::text COLLATE pg_catalog."C" BETWEEN run.run_id::text AND run.run_id::text
                            AND ti.working_set IS TRUE AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
                            ORDER BY ti.run_id::text COLLATE pg_catalog."C" DESC, ti.dag_version_id DESC NULLS FIRST
                            LIMIT 1
                        ) THEN 1
                        ELSE (
                            SELECT
                                coalesce(
                                    pg_catalog.bit_or(
                                        CASE
                                            WHEN ti.dag_version_id = run.dag_version_id THEN 1
                                            WHEN ti.working_set IS TRUE AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed') THEN 2
                                            ELSE 0
                                        END
                                    ),
                                    0
                                )
                            FROM ONLY @airflow_schema@.task_instance AS ti
                            WHERE ti.dag_id::text = run.dag_id AND ti.run_id::text BETWEEN run.run_id AND run.run_id
                        )
                    END AS bits
                FROM (VALUES (run.dag_version_id)) AS latest (id)
                OFFSET 0 -- asked once for each run, although it is used twice
            ) AS tis
            CROSS JOIN LATERAL (
                SELECT
                    (tis.bits & 2) <> 0 AS any_stale,
                    (tis.bits & 1) <> 0 OR FALSE AS verified
            ) AS verdict
            WHERE report_all OR verdict.any_stale OR NOT verdict.verified
            ORDER BY
                pg_catalog.array_position(limited, run.dag_run_id),
                run.last_scheduling_decision NULLS FIRST,
                run.run_after,
                run.dag_run_id
        ) AS run
        UNION ALL
        SELECT
            run.dag_run_id,
            run.dag_id,
            run.run_id,
            own.id,
            own.version_number,
            TRUE,
            TRUE
        FROM (
            SELECT
                running.id::bigint AS dag_run_id,
                running.dag_id::text AS dag_id,
                running.run_id::text AS run_id,
                running.created_dag_version_id
            FROM (
                -- The running DAG runs among them.
                SELECT
                    run.id,
                    run.dag_id,
                    run.run_id,
                    run.run_type,
                    run.logical_date,
                    run.bundle_version,
                    run.created_dag_version_id,
                    run.last_scheduling_decision,
                    run.run_after,
                    run.backfill_id
                FROM @airflow_schema@.dag_run AS run
                WHERE ids IS NULL AND run.state::text = 'running'
                UNION ALL
                -- Of these two the executor runs one: a list of ids costs a look-up each, not a pass over all running runs.
                SELECT
                    run.id,
                    run.dag_id,
                    run.run_id,
                    run.run_type,
                    run.logical_date,
                    run.bundle_version,
                    run.created_dag_version_id,
                    run.last_scheduling_decision,
                    run.run_after,
                    run.backfill_id
                FROM @airflow_schema@.dag_run AS run
                WHERE run.id = ANY (ids) AND run.state::text = 'running'
            ) AS running
            WHERE running.bundle_version::text <> ''
            AND (dag_ids IS NULL OR running.dag_id::text = ANY (dag_ids))
        ) AS run
        JOIN @airflow_schema@.dag_version AS own ON own.id = run.created_dag_version_id AND own.dag_id::text = run.dag_id
        WHERE EXISTS (
            SELECT FROM ONLY @airflow_schema@.task_instance AS ti
            WHERE ti.dag_id::text = run.dag_id AND ti.run_id::text BETWEEN run.run_id AND run.run_id
            AND ti.working_set IS TRUE AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
            AND ti.dag_version_id IS NULL
            OFFSET 0 -- by run: not hashed, which would read the whole table
        )
    ) AS run
    CROSS JOIN LATERAL (
        SELECT pg_catalog.count(*)::integer AS stale
        FROM ONLY @airflow_schema@.task_instance AS ti
        WHERE ti.dag_id::text = run.dag_id AND ti.run_id::text BETWEEN run.run_id AND run.run_id
        AND ti.working_set IS TRUE AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
        AND (ti.dag_version_id IS NULL OR (NOT run.pinned AND ti.dag_version_id <> run.dag_version_id))
    ) AS tis
    ORDER BY run.dag_run_id;
END
$repairable$;

COMMENT ON FUNCTION dagbump.repairable(text[]) IS
'Internal: the DAG runs that a repair goes through, and how many task instances it has to move.

For dagbump.repair and the command line. Answers one row per examined run that holds stale task
instances or is unverified, and per pinned run with versionless ones whose own version is still there,
by dag_run_id:
  task_instances  those that are to be moved
  needs_verify    verify_integrity is due: a repair leaves the run to Airflow
Locks: none. Errors: 22023 for a NULL inside dag_ids and for an array of arrays.';

REVOKE ALL ON FUNCTION dagbump.repairable(text[]) FROM PUBLIC;
