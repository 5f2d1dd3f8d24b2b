-- dagbump.repair_batch: one batch of a repair, for the caller to commit.
--
-- For dagbump.repair and the command line, which call it in a loop. Whatever runs
-- it is given, each is judged here, as it is now: so whoever may call this can
-- move nothing but what a repair moves.
--
-- Locks, and waits for none: as dagbump.bump, on at most batch_size TIs.

CREATE OR REPLACE FUNCTION dagbump.repair_batch(dag_run_ids bigint[], batch_size integer) RETURNS TABLE (
    looked_at integer,
    task_instances integer,
    moved_runs bigint[],
    locked_task_instances integer,
    locked_runs bigint[],
    unverified_runs integer
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
AS $repair_batch$
#variable_conflict use_column
DECLARE
    examined_only CONSTANT boolean := TRUE;
    by_index CONSTANT boolean := FALSE;
    report_all CONSTANT boolean := FALSE;
    dag_ids CONSTANT text[] := NULL;
    limited CONSTANT bigint[] := NULL;
    caller CONSTANT text := 'dagbump.repair';
    needs_verify boolean := FALSE; -- an unverified run is left alone
    id bigint;
    ids bigint[];
    run record;
    room integer;
    stale integer;
    bumped integer;
    locked integer;
    older uuid[];
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
    -- Refuses a list that means nothing.
    IF pg_catalog.array_ndims(dag_run_ids) > 1 THEN
        RAISE EXCEPTION 'dag_run_ids must not be an array of arrays'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Each element is the id of a DAG run.';
    ELSIF pg_catalog.array_position(dag_run_ids, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'dag_run_ids must not contain NULL'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Each element is the id of a DAG run.';
    END IF;
    IF batch_size IS NULL OR batch_size < 1 THEN
        RAISE EXCEPTION 'batch_size must be 1 or more, and is %', coalesce(batch_size::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'At most so many task instances are moved between two COMMITs.';
    END IF;
    looked_at := 0;
    task_instances := 0;
    moved_runs := '{}';
    locked_task_instances := 0;
    locked_runs := '{}';
    unverified_runs := 0;

    FOREACH id IN ARRAY coalesce(dag_run_ids, '{}') LOOP
        ids := ARRAY[id];
        stale := 0;
        bumped := 0;
        locked := 0;
        room := batch_size - task_instances;

        -- One, or none.
        FOR run IN
            -- The running runs that hold TIs that somebody but a scheduler may move, and the version these go to: the examined runs
            -- that are due, those to be verified included, and the pinned runs with versionless TIs, whose own version is still there.
            SELECT
                due.dag_run_id,
                due.dag_id,
                due.run_id,
                due.dag_version_id,
                due.version_number,
                FALSE AS pinned,
                due.verified
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
                                AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
                                ORDER BY ti.run_id::text COLLATE pg_catalog."C" ASC, ti.dag_version_id ASC NULLS LAST
                                LIMIT 1
                            ) AND (
                                SELECT ti.dag_version_id = latest.id
                                FROM ONLY @airflow_schema@.task_instance AS ti
                                WHERE ti.dag_id::text COLLATE pg_catalog."C" = run.dag_id::text
                                AND ti.run_id::text COLLATE pg_catalog."C" BETWEEN run.run_id::text AND run.run_id::text
                                AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
                                ORDER BY ti.run_id::text COLLATE pg_catalog."C" DESC, ti.dag_version_id DESC NULLS FIRST
                                LIMIT 1
                            ) THEN 1
                            ELSE (
                                SELECT
                                    coalesce(
                                        pg_catalog.bit_or(
                                            CASE
                                                WHEN ti.dag_version_id = run.dag_version_id THEN 1
                                                WHEN coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed') THEN 2
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
                        (tis.bits & 1) <> 0 OR EXISTS (
                            SELECT FROM @airflow_schema@.task_instance_history AS past
                            WHERE past.dag_id::text = run.dag_id AND past.run_id::text BETWEEN run.run_id AND run.run_id
                            AND past.dag_version_id = run.dag_version_id
                            OFFSET 0 -- by run: not hashed, which would read the whole table
                        ) AS verified
                ) AS verdict
                WHERE report_all OR verdict.any_stale OR NOT verdict.verified
                ORDER BY
                    pg_catalog.array_position(limited, run.dag_run_id),
                    run.last_scheduling_decision NULLS FIRST,
                    run.run_after,
                    run.dag_run_id
            ) AS due
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
                AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
                AND ti.dag_version_id IS NULL
                OFFSET 0 -- by run: not hashed, which would read the whole table
            )
        LOOP
            IF NOT run.verified THEN
                unverified_runs := unverified_runs + 1;
                CONTINUE;
            END IF;

            IF run.pinned THEN
                -- Only those on no version: older names none.
                older := '{}';
                SELECT pg_catalog.count(*)::integer INTO stale
                FROM ONLY @airflow_schema@.task_instance AS ti
                WHERE ti.dag_id::text = run.dag_id AND ti.run_id::text BETWEEN run.run_id AND run.run_id
                AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
                AND (ti.dag_version_id IS NULL OR ti.dag_version_id = ANY (older));
            ELSE
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
                    AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
                    AND ti.dag_version_id IS DISTINCT FROM run.dag_version_id
                    GROUP BY ti.dag_version_id
                ) AS held
                LEFT JOIN @airflow_schema@.dag_version AS version ON version.id = held.dag_version_id
                WHERE (version.dag_id::text = run.dag_id AND version.version_number > run.version_number) IS NOT TRUE;
            END IF;
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
                    AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
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
                AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
                AND (ti.dag_version_id IS NULL OR ti.dag_version_id = ANY (older));
            END IF;
        END LOOP;

        task_instances := task_instances + bumped;
        IF bumped > 0 THEN
            moved_runs := pg_catalog.array_append(moved_runs, id);
        END IF;
        IF bumped = room AND bumped < stale THEN
            EXIT; -- the batch is full, and the run goes on in the next
        END IF;
        looked_at := looked_at + 1;
        IF locked > 0 THEN
            locked_task_instances := locked_task_instances + locked;
            locked_runs := pg_catalog.array_append(locked_runs, id);
        END IF;
        EXIT WHEN task_instances >= batch_size;
    END LOOP;
    RETURN NEXT;
END
$repair_batch$;

COMMENT ON FUNCTION dagbump.repair_batch(bigint[], integer) IS
'Internal: one batch of dagbump.repair, for the caller to commit.

Goes through the runs in the order given, until batch_size task instances are moved. Moves what
dagbump.repair would, whatever runs are named. Answers one row:
  looked_at              the first so many runs are done with; go on with the next
  task_instances         moved
  moved_runs             the runs that these are in; the last of them may go on in the next batch
  locked_task_instances  stale ones, in runs that are done with, that another transaction holds
  locked_runs            the runs that these are in
  unverified_runs        left to Airflow, whose verify_integrity is due
Locks and errors: as dagbump.bump; 22023 for a batch_size that is NULL or less than 1, for a NULL
inside dag_run_ids and for an array of arrays.';

REVOKE ALL ON FUNCTION dagbump.repair_batch(bigint[], integer) FROM PUBLIC;
