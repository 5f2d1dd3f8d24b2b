-- Takes: run, stale, older, room (how many TIs at most; NULL: no limit), needs_verify, versions_taken, versions_locked,
-- history_is_whole, caller, free, left_behind, bumped, locked.
-- Moves the stale TIs of the run to its version, and records the move. The TIs have been counted already.

-- Lock the dag_version row, because the foreign-key check would wait for it, here or in verify_integrity.
-- If nothing can be moved, it is not locked. If it cannot be locked, the whole run is left to a later call.
@include:take_version@
needs_verify := needs_verify AND run.dag_version_id = ANY (versions_taken);

IF stale > 0 AND run.dag_version_id = ANY (versions_taken) THEN
    @include:require_history@

    -- Lock the TIs that are free. PostgreSQL rechecks a TI that has changed since it was counted. It stays where it is
    -- if it has finished, or is on a version that was not counted.
    SELECT pg_catalog.array_agg(ti.ctid), pg_catalog.array_agg(ti.dag_version_id) INTO free, left_behind
    FROM (
        SELECT ti.ctid, ti.dag_version_id
        @include:movable@
        LIMIT room
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS ti;

    -- Move them and record it. A locked row keeps its ctid, and a ctid is unique in one physical table.
    WITH moved AS (
        UPDATE ONLY @airflow_schema@.task_instance AS ti
        SET dag_version_id = run.dag_version_id, updated_at = pg_catalog.clock_timestamp()
        -- unnest with several arrays is grammar, not a function call, so it needs no schema.
        FROM unnest(free, left_behind) AS taken (tid, dag_version_id)
        WHERE ti.ctid = taken.tid
        RETURNING taken.dag_version_id
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

-- The TIs that are still stale are locked by another transaction, or there was no room for them.
IF bumped < stale AND (room IS NULL OR bumped < room) THEN
    SELECT pg_catalog.count(*)::integer INTO locked
    @include:movable@;
END IF;
