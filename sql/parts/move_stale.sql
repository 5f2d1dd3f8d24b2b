-- Takes: run, stale, older, room (at most so many TIs; NULL: no limit), needs_verify, versions_taken, versions_held,
-- history_is_whole, caller, free, left_behind, bumped, locked.
-- Moves the stale TIs of that run, which have been counted, to its version, and records it.

-- Take the lock that the foreign-key check would wait for, here or in verify_integrity; but not where nothing can
-- be moved. Not to be had: the run waits for a later call, whole.
IF stale > 0 OR needs_verify THEN
    @include:take_version@
    needs_verify := needs_verify AND run.dag_version_id = ANY (versions_taken);
END IF;

IF stale > 0 AND run.dag_version_id = ANY (versions_taken) THEN
    @include:require_history@

    -- Lock what is free. A TI that has changed since it was counted is judged anew, as it is now: one that has
    -- finished, or is on a version that was not seen, stays where it is.
    SELECT pg_catalog.array_agg(ti.ctid), pg_catalog.array_agg(ti.dag_version_id) INTO free, left_behind
    FROM (
        SELECT ti.ctid, ti.dag_version_id
        @include:movable@
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
    @include:movable@;
END IF;
