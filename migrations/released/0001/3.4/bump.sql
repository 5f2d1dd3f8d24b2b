-- dagbump.bump: moves the stale task instances (TIs) of the examined runs to the latest version of their DAG.
--
-- For the scheduler, once per loop and in its transaction; for a person or a
-- cron job, in the safe form (caller_verifies => false).
--
-- Locks, and waits for none: NO KEY UPDATE on the TIs it moves; KEY SHARE on
-- the latest dag_version row, the lock that the foreign-key check of the update
-- takes. What another transaction holds is skipped and counted.
-- Writes task_instance.dag_version_id and updated_at, and a row per run in which
-- it moved something into dagbump.history, nothing else; where no TI is stale it
-- writes nothing at all, not even a row lock.
--
-- Operands are cast to text because PostgreSQL has no operator of its own for
-- varchar: for an exact match it would also take one that somebody put into
-- Airflow's schema.
--
-- The trap that caller_verifies is about: Airflow runs verify_integrity for a
-- run only while the latest version is on none of its TIs and TI-history rows
-- (DagRun.check_version_id_exists_in_dr). The first bump of a run takes that
-- sign away; unless the caller verifies in the same transaction, the TIs of
-- newly added tasks are never created.

CREATE OR REPLACE FUNCTION dagbump.bump(
    dag_run_ids bigint[] DEFAULT NULL,
    dag_ids text[] DEFAULT NULL,
    max_runs integer DEFAULT NULL,
    caller_verifies boolean DEFAULT FALSE,
    report_all boolean DEFAULT FALSE,
    caller text DEFAULT NULL
) RETURNS TABLE (
    dag_run_id bigint,
    dag_id text,
    run_id text,
    dag_version_id uuid,
    version_number integer,
    bumped integer,
    locked integer,
    needs_verify boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
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
AS $bump$
-- In a query that has an alias "run", run is that; elsewhere it is the run under way.
#variable_conflict use_column
DECLARE
    examined_only CONSTANT boolean := TRUE;
    ids bigint[] := dag_run_ids;
    limited bigint[];
    indexed boolean;
    by_index boolean;
    candidates bigint[];
    run record;
    stale integer;
    older uuid[];
    room CONSTANT integer := NULL;
    free tid[];
    left_behind uuid[];
    history_is_whole boolean := FALSE;
    versions_taken uuid[] := ARRAY[]::uuid[];
    versions_held uuid[] := ARRAY[]::uuid[];
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
    IF report_all IS NULL THEN
        RAISE EXCEPTION 'report_all must be true or false, and is NULL'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave it out for the runs with something to do.';
    END IF;

    -- 1. A limit: which runs it leaves.
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
        ids := limited;
    END IF;

    -- 2. The steady loop, with the index: what this lets pass, the next step judges. Where all runs are to be answered, the
    -- next step looks for itself: from one snapshot, so that no version is answered for a run that was judged by another.
    SELECT TRUE, CASE
        WHEN NOT report_all THEN (
            -- For the steady loop, where the optional index is there: the ids of the runs that may have
            -- something to do. Judges neither DAG nor run: that is for the query that follows.
            SELECT pg_catalog.array_agg(run.id::bigint)
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
            ) AS run
            CROSS JOIN LATERAL (
                -- The latest version of its DAG: the highest version_number, whatever created_at says.
                SELECT version.id, version.version_number
                FROM @airflow_schema@.dag_version AS version
                WHERE version.dag_id::text = run.dag_id::text
                ORDER BY version.version_number DESC
                LIMIT 1
            ) AS latest
            WHERE (dag_ids IS NULL OR run.dag_id::text = ANY (dag_ids)) AND ((
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
            )) IS NOT TRUE
        )
    END
    INTO indexed, candidates
    FROM pg_catalog.pg_index AS index
    WHERE index.indexrelid = pg_catalog.to_regclass(@optional_index_literal@)::oid
    AND index.indrelid = @task_instance_literal@::regclass::oid
    AND index.indisvalid
    AND NOT index.indcheckxmin;
    by_index := indexed IS TRUE AND report_all;
    IF indexed AND NOT report_all THEN
        IF candidates IS NULL THEN
            RETURN;
        END IF;
        ids := candidates;
    END IF;

    -- 3. Which runs have something to do.
    FOR run IN
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
    LOOP
        dag_run_id := run.dag_run_id;
        dag_id := run.dag_id;
        run_id := run.run_id;
        dag_version_id := run.dag_version_id;
        version_number := run.version_number;
        bumped := 0;
        locked := 0;
        needs_verify := NOT run.verified;

        -- 4. The safe form: the first bump of a run is Airflow's to make.
        IF needs_verify AND NOT bump.caller_verifies THEN
            RETURN NEXT;
            CONTINUE;
        END IF;
        IF NOT run.any_stale AND NOT needs_verify THEN
            RETURN NEXT; -- for report_all
            CONTINUE;
        END IF;

        -- 5. Look again: while other runs were moved, a newer version may have landed, or the run have been pinned, paused,
        -- ended. The next call sees to it.
        ids := ARRAY[run.dag_run_id];
        IF NOT EXISTS (
            SELECT FROM (
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
            ) AS again
            WHERE again.dag_version_id = run.dag_version_id
        ) THEN
            CONTINUE;
        END IF;

        -- 6. Count. A TI on a higher version, whoever has put it there, is not stale.
        stale := 0;
        older := NULL;
        IF run.any_stale THEN
            -- Counts the stale TIs of that run, and collects the versions they are on; none that is higher
            -- than the latest of the run.
            SELECT
                coalesce(pg_catalog.sum(held.tis), 0)::integer,
                coalesce(pg_catalog.array_agg(held.dag_version_id) FILTER (WHERE held.dag_version_id IS NOT NULL), '{}')
            INTO stale, older
            FROM (
                SELECT ti.dag_version_id, pg_catalog.count(*) AS tis
                FROM ONLY @airflow_schema@.task_instance AS ti
                WHERE ti.dag_id::text = run.dag_id AND ti.run_id::text BETWEEN run.run_id AND run.run_id
                AND ti.working_set IS TRUE AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
                AND ti.dag_version_id IS DISTINCT FROM run.dag_version_id
                GROUP BY ti.dag_version_id
            ) AS held
            LEFT JOIN @airflow_schema@.dag_version AS version ON version.id = held.dag_version_id
            WHERE (version.dag_id::text = run.dag_id AND version.version_number > run.version_number) IS NOT TRUE;
        END IF;

        -- 7. Lock what is free, move it, record it.
        -- history_is_whole, caller, free, left_behind, bumped, locked.
        -- Moves the stale TIs of that run, which have been counted, to its version, and records it.

        -- Take the lock that the foreign-key check would wait for, here or in verify_integrity; but not where nothing can
        -- be moved. Not to be had: the run waits for a later call, whole.
        IF stale > 0 OR needs_verify THEN
            -- Puts the version of the run into one of the two, or, where nothing can be moved, into neither.
            IF NOT run.dag_version_id = ANY (versions_taken) AND NOT run.dag_version_id = ANY (versions_held) THEN
                -- Refuses to begin what PostgreSQL would end with an error that says nothing of the way out.
                IF pg_catalog.current_setting('transaction_read_only')::boolean THEN
                    RAISE EXCEPTION 'this transaction is read-only, and nothing can be written in it'
                        USING ERRCODE = 'read_only_sql_transaction',
                        HINT = 'It is so on a hot standby, and where default_transaction_read_only is on, for the server, the database or '
                        'the role. For one session: PGOPTIONS="-c default_transaction_read_only=off".';
                END IF;
                CASE dagbump.take_version(run.dag_version_id, run.dag_id, run.run_id, older, needs_verify)
                    WHEN TRUE THEN
                        versions_taken := pg_catalog.array_append(versions_taken, run.dag_version_id);
                    WHEN FALSE THEN
                        versions_held := pg_catalog.array_append(versions_held, run.dag_version_id);
                    ELSE
                        NULL;
                END CASE;
            END IF;
            needs_verify := needs_verify AND run.dag_version_id = ANY (versions_taken);
        END IF;

        IF stale > 0 AND run.dag_version_id = ANY (versions_taken) THEN
            -- Refuses to move what cannot be recorded. Looked at once per call, and only by one that moves something.
            -- A lock on the whole table (VACUUM FULL, CREATE INDEX) is an error: a scheduler must not wait for one.
            IF NOT history_is_whole THEN
                IF EXISTS (
                    -- The columns of dagbump.history that are not as it is written: missing, of another type, or with a NOT NULL, which none
                    -- but the key has. (By the name in the catalog: format_type quotes it, where quote_all_identifiers is on.)
                    SELECT wanted.attname, wanted.type
                    FROM (
                        VALUES
                        ('bumped_at', 'timestamptz'),
                        ('bumped_by', 'text'),
                        ('application_name', 'text'),
                        ('dag_run_id', 'int8'),
                        ('dag_id', 'text'),
                        ('run_id', 'text'),
                        ('from_versions', 'jsonb'),
                        ('dag_version_id', 'uuid'),
                        ('version_number', 'int4'),
                        ('bumped', 'int4'),
                        ('caller', 'text'),
                        ('id', 'uuid')
                    ) AS wanted (attname, type)
                    WHERE NOT EXISTS (
                        SELECT FROM pg_catalog.pg_attribute AS attribute
                        JOIN pg_catalog.pg_type AS type ON type.oid = attribute.atttypid
                        WHERE attribute.attrelid = pg_catalog.to_regclass('dagbump.history')::oid
                        AND attribute.attname::text = wanted.attname
                        AND type.typnamespace = 'pg_catalog'::regnamespace::oid
                        AND type.typname::text = wanted.type
                        AND attribute.atttypmod = -1
                    )
                    UNION ALL
                    SELECT attribute.attname::text, NULL
                    FROM pg_catalog.pg_attribute AS attribute
                    WHERE attribute.attrelid = pg_catalog.to_regclass('dagbump.history')::oid
                    AND attribute.attnum > 0
                    AND attribute.attnotnull
                    AND attribute.attname::text <> 'id'
                ) THEN
                    RAISE EXCEPTION 'the table dagbump.history is missing, or has been altered; nothing was moved'
                        USING ERRCODE = 'DBU05', HINT = 'Run: dagbump upgrade, which makes it again and keeps what it holds.';
                END IF;
                EXECUTE 'LOCK TABLE dagbump.history IN ROW EXCLUSIVE MODE NOWAIT';
                history_is_whole := TRUE;
            END IF;

            -- Lock what is free. A TI that has changed since it was counted is judged anew, as it is now: one that has
            -- finished, or is on a version that was not seen, stays where it is.
            SELECT pg_catalog.array_agg(ti.ctid), pg_catalog.array_agg(ti.dag_version_id) INTO free, left_behind
            FROM (
                SELECT ti.ctid, ti.dag_version_id
                -- From the stale TIs of that run, those that may be moved: on no version, or on one that was seen
                -- not to be higher than the latest. So a TI that somebody moves further while this goes on stays
                -- there.
                FROM ONLY @airflow_schema@.task_instance AS ti
                WHERE ti.dag_id::text = run.dag_id AND ti.run_id::text BETWEEN run.run_id AND run.run_id
                AND ti.working_set IS TRUE AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
                AND (ti.dag_version_id IS NULL OR ti.dag_version_id = ANY (older))
                LIMIT room
                FOR NO KEY UPDATE SKIP LOCKED
            ) AS ti;

            -- Move, and record what has moved. Locked rows stay where they are, so their address is good; in one physical
            -- table it is unique.
            WITH moved AS (
                UPDATE ONLY @airflow_schema@.task_instance AS ti
                SET dag_version_id = run.dag_version_id, updated_at = pg_catalog.clock_timestamp()
                -- Of two arrays it is syntax, which means that of pg_catalog.
                FROM unnest(free, left_behind) AS locked (tid, dag_version_id)
                WHERE ti.ctid = locked.tid
                RETURNING locked.dag_version_id
            )

            INSERT INTO dagbump.history AS history (
                bumped_at,
                bumped_by,
                application_name,
                dag_run_id,
                dag_id,
                run_id,
                from_versions,
                dag_version_id,
                version_number,
                bumped,
                caller,
                id
            )
            SELECT
                pg_catalog.clock_timestamp(),
                SESSION_USER::text,
                pg_catalog.current_setting('application_name'),
                run.dag_run_id,
                run.dag_id,
                run.run_id,
                pg_catalog.jsonb_agg(
                    pg_catalog.jsonb_build_object(
                        'dag_version_id', old.dag_version_id,
                        'version_number', version.version_number,
                        'task_instances', old.task_instances
                    )
                    ORDER BY version.version_number NULLS FIRST
                ),
                run.dag_version_id,
                run.version_number,
                pg_catalog.sum(old.task_instances)::integer,
                caller,
                pg_catalog.gen_random_uuid()
            FROM (
                SELECT moved.dag_version_id, pg_catalog.count(*) AS task_instances
                FROM moved
                GROUP BY moved.dag_version_id
            ) AS old
            LEFT JOIN @airflow_schema@.dag_version AS version ON version.id = old.dag_version_id
            HAVING pg_catalog.count(*) > 0
            RETURNING history.bumped INTO bumped;
            bumped := coalesce(bumped, 0);
        END IF;

        -- What is stale still, another transaction holds; or there was no room.
        IF bumped < stale AND (room IS NULL OR bumped < room) THEN
            SELECT pg_catalog.count(*)::integer INTO locked
            FROM ONLY @airflow_schema@.task_instance AS ti
            WHERE ti.dag_id::text = run.dag_id AND ti.run_id::text BETWEEN run.run_id AND run.run_id
            AND ti.working_set IS TRUE AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
            AND (ti.dag_version_id IS NULL OR ti.dag_version_id = ANY (older));
        END IF;

        -- An unverified run whose version is locked, and that has no TI to count as locked, is in no answer: nobody may take
        -- its silence for "nothing is due".
        IF bumped > 0 OR locked > 0 OR needs_verify OR (report_all AND run.verified) THEN
            RETURN NEXT;
        END IF;
    END LOOP;
END
$bump$;

COMMENT ON FUNCTION dagbump.bump(bigint[], text[], integer, boolean, boolean, text) IS
'Moves the stale task instances of the examined DAG runs to the latest version of their DAG.

One call does a whole scheduler loop.

  SELECT * FROM dagbump.bump();                                    every examined run, the safe form
  SELECT * FROM dagbump.bump(dag_ids => ''{etl}'');                  the runs of one DAG
  SELECT * FROM dagbump.bump(''{17,18}'', caller_verifies => true);  two runs; you call verify_integrity

Words
  TI          task instance
  latest      the dag_version of the DAG with the highest version_number
  unfinished  state is NULL or not one of success, failed, skipped, upstream_failed, removed
  stale       an unfinished TI whose dag_version_id IS DISTINCT FROM latest
  examined    a running run, not pinned to a bundle_version, run_after reached, its DAG neither
              paused nor stale, and the latest version has a serialized_dag row
  unverified  an examined run with the latest version on none of its TIs and none of its TI-history
              rows: Airflow''s own sign that verify_integrity has not run for this version

Arguments
  dag_run_ids      dag_run.id; NULL: every examined run; an empty array: none
  dag_ids          NULL: every DAG; an empty array: none
  max_runs         at most so many examined runs, in the scheduler''s order; NULL: no limit
  caller_verifies  false (safe): an unverified run is left to Airflow, untouched, and answered with
                   needs_verify.
                   true: it is bumped too, and the caller promises to run verify_integrity for it in
                   this transaction. Breaking that promise means that the TIs of newly added tasks
                   are never created.
  report_all       true: answers every run that the call examined, also where there was nothing to do
  caller           who calls, in words; recorded in dagbump.history

Answers one row per run for which bumped > 0, locked > 0 or needs_verify; none where nothing changed.
With report_all one row per examined run. A run that is missing from that answer was not examined, or has
to be left to a later call: a newer version of its DAG landed during this one, or it is unverified, and
its dag_version row is locked while it has no stale TI.
  bumped        TIs moved by this call
  locked        stale TIs left for the next call because another transaction holds them, or the
                dag_version row
  needs_verify  the run was unverified before this call; false where the dag_version row is held
A run whose DAG gets a newer version while the call is under way is left to the next call. No TI moves
to a lower version_number.

Locks: NO KEY UPDATE on the TIs moved, KEY SHARE on their dag_version, both SKIP LOCKED: it waits for no
row lock. (One gap that PostgreSQL leaves is bounded to 1 ms: SELECT dagbump.help(''take_version''); )
Nothing to move or to verify: no lock, and nothing written. Commits nothing. What it moves, it records
in dagbump.history.
Errors: 22023 for a negative max_runs, caller_verifies or report_all NULL, a NULL inside an array, an array
of arrays; 25006 where there is something to move in a read-only transaction; 42501 where row-level
security hides rows from the owner of Airflow''s tables (FORCE ROW LEVEL SECURITY);
DBU05 where dagbump.history is missing or altered, which dagbump upgrade mends;
55P03 where another transaction has locked the whole of dagbump.history (VACUUM FULL, CREATE INDEX): try again;
40001 under REPEATABLE READ and SERIALIZABLE where a TI has changed since the snapshot: try again.';

REVOKE ALL ON FUNCTION dagbump.bump(bigint[], text[], integer, boolean, boolean, text) FROM PUBLIC;
