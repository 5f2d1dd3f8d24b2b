-- dagbump.preview: what dagbump.bump would do, and what in running runs is not as it should be.
--
-- For a person before the first bump. Reads only: locks nothing, runs on a hot
-- standby. Unlike bump it looks at every running run, examined or not, and at the
-- tasks that it should have: the sign by which Airflow and bump take a run for
-- verified can be there and the work not done.

CREATE OR REPLACE FUNCTION dagbump.preview(
    dag_run_ids bigint[] DEFAULT NULL,
    dag_ids text[] DEFAULT NULL,
    max_runs integer DEFAULT NULL,
    caller_verifies boolean DEFAULT FALSE
) RETURNS TABLE (
    dag_run_id bigint,
    dag_id text,
    run_id text,
    dag_version_id uuid,
    version_number integer,
    stale integer,
    stale_by_state jsonb,
    verdict text,
    versionless integer,
    missing_tasks text[],
    vanished_tasks text[]
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
AS $preview$
#variable_conflict use_column
DECLARE
    examined_only CONSTANT boolean := FALSE;
    ids CONSTANT bigint[] := dag_run_ids;
    limited bigint[];
BEGIN
    -- Fails where a migration of Airflow has changed its tables under the function. The planner makes TRUE of it.
    IF NOT dagbump.tables_fit(@task_instance_literal@::regclass) THEN
        RETURN;
    END IF;
    -- Refuses those that mean nothing, by name.
    IF max_runs < 0 THEN
        RAISE EXCEPTION 'max_runs must not be negative, and is %', max_runs
            USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL means no limit.';
    ELSIF caller_verifies IS NULL THEN
        RAISE EXCEPTION 'caller_verifies must be true or false, and is NULL'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave it out for the safe form.';
    END IF;
    -- Refuses a list that means nothing.
    IF pg_catalog.array_ndims(dag_run_ids) > 1 THEN
        RAISE EXCEPTION 'dag_run_ids must not be an array of arrays'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Each element is the id of a DAG run.';
    ELSIF pg_catalog.array_position(dag_run_ids, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'dag_run_ids must not contain NULL'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Each element is the id of a DAG run.';
    END IF;
    -- Refuses a list that means nothing.
    IF pg_catalog.array_ndims(dag_ids) > 1 THEN
        RAISE EXCEPTION 'dag_ids must not be an array of arrays'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL in place of the array means every DAG.';
    ELSIF pg_catalog.array_position(dag_ids, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'dag_ids must not contain NULL'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL in place of the array means every DAG.';
    END IF;

    IF max_runs IS NOT NULL THEN
        limited := coalesce((
            -- The ids of the first max_runs examined runs, in the order in which Airflow's scheduler takes
            -- them (DagRun.get_running_dag_runs_to_examine): last_scheduling_decision, run_after; a run of a
            -- backfill as any other.
            --
            -- Sorted before anything is looked up for a run, so that the look-ups end with the limit.
            SELECT pg_catalog.array_agg(examined.id::bigint)
            FROM (
                SELECT run.id
                FROM (
                    SELECT running.*
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
                    WHERE coalesce(running.bundle_version::text, '') = ''
                    AND running.run_after <= pg_catalog.now()
                    AND (dag_ids IS NULL OR running.dag_id::text = ANY (dag_ids))
                    ORDER BY
                        running.last_scheduling_decision NULLS FIRST, running.run_after, running.id
                    OFFSET 0
                ) AS run
                LEFT JOIN @airflow_schema@.dag AS dag ON dag.dag_id::text = run.dag_id::text
                CROSS JOIN LATERAL (
                    -- The latest version of its DAG: the highest version_number, whatever created_at says.
                    SELECT version.id, version.version_number
                    FROM @airflow_schema@.dag_version AS version
                    WHERE version.dag_id::text = run.dag_id::text
                    ORDER BY version.version_number DESC
                    LIMIT 1
                ) AS latest
                JOIN @airflow_schema@.serialized_dag AS serialized ON serialized.dag_version_id = latest.id
                WHERE dag.dag_id IS NULL OR (dag.is_paused IS FALSE AND dag.is_stale IS FALSE)
                ORDER BY run.last_scheduling_decision NULLS FIRST, run.run_after, run.id
                LIMIT max_runs
            ) AS examined
        ), '{}');
    END IF;

    RETURN QUERY
    WITH judged AS MATERIALIZED (
        SELECT
            run.*,
            -- A pinned run keeps to its own version, for as long as that is known.
            CASE WHEN run.obstacle = 'pinned' THEN run.created_dag_version_id END AS pinned_version_id
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
        WHERE run.obstacle IS NOT NULL OR limited IS NULL OR run.dag_run_id = ANY (limited)
    ),

    scoped AS MATERIALIZED (
        SELECT
            run.dag_run_id,
            run.dag_id,
            run.run_id,
            run.run_type,
            run.logical_date,
            coalesce(run.pinned_version_id, run.dag_version_id) AS dag_version_id
        FROM judged AS run
    ),

    scope AS (
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
                    CASE WHEN ti.working_set IS TRUE AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed') THEN 20 WHEN ti.state::text = 'removed' THEN 8 ELSE 4 END
                    | CASE WHEN ti.region_id = '00000000-0000-0000-0000-000000000000'::uuid AND ti.region_index < 0 THEN 0 ELSE 64 END AS bits
                FROM ONLY @airflow_schema@.task_instance AS ti
                WHERE ti.dag_id::text = run.dag_id AND ti.run_id::text BETWEEN run.run_id AND run.run_id AND ti.working_set IS TRUE
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
    ),

    -- Each run is in both. FULL, because PostgreSQL has no nested loop for it, which would compare each with each.
    joined AS MATERIALIZED (
        SELECT run.*, scope.missing_tasks, scope.vanished_tasks
        FROM judged AS run
        FULL JOIN scope ON scope.dag_run_id = run.dag_run_id
    )

    SELECT
        run.dag_run_id,
        run.dag_id,
        run.run_id,
        run.dag_version_id,
        run.version_number,
        tis.stale,
        tis.stale_by_state,
        CASE
            WHEN run.obstacle = 'pinned' AND tis.versionless > 0 THEN 'versionless'
            WHEN run.obstacle IS NOT NULL THEN run.obstacle
            WHEN verdict.verified AND verdict.lacks_task THEN 'missing_tasks'
            WHEN verdict.verified OR (preview.caller_verifies AND tis.stale > 0) THEN 'bump'
            ELSE 'needs_verify'
        END,
        tis.versionless,
        run.missing_tasks,
        run.vanished_tasks
    FROM joined AS run
    CROSS JOIN LATERAL (
        SELECT
            coalesce(pg_catalog.sum(states.stale), 0)::integer AS stale,
            coalesce(
                pg_catalog.jsonb_object_agg(states.state, states.stale) FILTER (WHERE states.stale > 0), '{}'
            ) AS stale_by_state,
            coalesce(pg_catalog.sum(states.versionless), 0)::integer AS versionless,
            pg_catalog.bool_or(states.on_latest) AS on_latest
        FROM (
            SELECT
                coalesce(ti.state::text, 'no_status') AS state,
                pg_catalog.count(*) FILTER (
                    WHERE ti.working_set IS TRUE AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
                    -- Where the DAG has no version at all, nothing can be on the latest.
                    AND (ti.dag_version_id = run.dag_version_id) IS NOT TRUE
                    AND (ti.dag_version_id = run.pinned_version_id) IS NOT TRUE
                ) AS stale,
                pg_catalog.count(*) FILTER (WHERE ti.working_set IS TRUE AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed') AND ti.dag_version_id IS NULL) AS versionless,
                pg_catalog.bool_or(ti.dag_version_id = run.dag_version_id) AS on_latest
            FROM ONLY @airflow_schema@.task_instance AS ti
            WHERE ti.dag_id::text = run.dag_id AND ti.run_id::text BETWEEN run.run_id AND run.run_id
            GROUP BY coalesce(ti.state::text, 'no_status')
        ) AS states
    ) AS tis
    CROSS JOIN LATERAL (
        SELECT
            (tis.on_latest IS TRUE OR FALSE)
            -- The safe form leaves it to Airflow as well where Airflow would move back what is moved.
            AND (
                preview.caller_verifies OR run.obstacle IS NOT NULL OR tis.stale = 0 OR NOT (FALSE)
            ) AS verified,
            coalesce(pg_catalog.cardinality(run.missing_tasks), 0) > 0 AS lacks_task
    ) AS verdict
    WHERE tis.stale > 0 OR verdict.lacks_task OR (run.obstacle IS NULL AND NOT verdict.verified)
    ORDER BY
        run.obstacle COLLATE pg_catalog."C" NULLS FIRST,
        pg_catalog.array_position(limited, run.dag_run_id),
        run.last_scheduling_decision NULLS FIRST,
        run.run_after,
        run.dag_run_id;
END
$preview$;

COMMENT ON FUNCTION dagbump.preview(bigint[], text[], integer, boolean) IS
'Shows what dagbump.bump would do, what it leaves alone and why, and which runs lack a task.

  SELECT * FROM dagbump.preview();

Reads only; runs on a hot standby. Takes the arguments of dagbump.bump, whose page explains the words:
SELECT dagbump.help(''bump'');

Answers one row per running run that holds stale TIs, lacks a task, or that bump would answer:
  dag_version_id, version_number   the latest version of the DAG; NULL where it has none
  stale           unfinished TIs that are not on it; in a pinned run, nor on the run''s own version
  stale_by_state  the same by state, {"scheduled": 2, "no_status": 1}; no_status: state is NULL, as
                  Airflow''s UI says
  verdict         bump               bump moves them
                  missing_tasks      the run lacks a task, and Airflow takes it for verified: nothing in
                                     Airflow will create or restore the TI; bump moves what is stale
                                     besides
                  needs_verify       verify_integrity is due: the safe form leaves the run to Airflow; also
                                     where Airflow, up to 3.2, takes another version for the latest, and
                                     would move back what is moved: dagbump.check() names the DAG
                  pinned             dag_run.bundle_version is set: the run keeps its version
                  versionless        so it is, and TIs of it have no version at all: from Airflow 3.1
                                     on nothing will ever start them
                  paused, stale_dag  the DAG is paused, or no longer in any DAG file
                  not_due            run_after lies in the future
                  no_version         the DAG has no dag_version
                  no_serialized_dag  the latest version has no serialized_dag row
                  The first that applies: versionless, pinned, paused, stale_dag, not_due, no_version,
                  no_serialized_dag; then needs_verify, missing_tasks, bump.
  versionless     unfinished TIs whose dag_version_id is NULL
  missing_tasks   tasks of the latest version, in a pinned run of its own, that have no TI in the run but
                  removed ones, although Airflow would make or restore one:
                  SELECT dagbump.help(''verify_scope''); NULL where they cannot be read
  vanished_tasks  tasks of unfinished TIs that that version no longer has; NULL as above
Where verify_integrity is still due, it will create what is missing.
max_runs limits the examined runs (bump, missing_tasks, needs_verify); the others are shown in any case.
Errors: 22023 as in dagbump.bump. Locks: none.';

REVOKE ALL ON FUNCTION dagbump.preview(bigint[], text[], integer, boolean) FROM PUBLIC;
