-- dagbump.take_version: takes the lock on a dag_version row that the foreign-key check of a bump takes, or says that it
-- is not to be had.
--
-- For dagbump.bump and the plugin. Apart from bump because only a function can bound a wait for
-- itself alone, and give back what it has locked. Its plans are made under the
-- settings of bump, which calls it.
--
-- Locks: NO KEY UPDATE on one TI of the run, where one is free, which says that there
-- is something to move; then KEY SHARE on the row; both SKIP LOCKED. Where the row is
-- not to be had, the TI is free again. SKIP LOCKED waits for nothing, but for one
-- thing: of a row that a transaction has updated (its key left as it was) and then
-- locked FOR UPDATE or deleted, PostgreSQL locks the version that everybody sees,
-- and then follows the chain of updates to the newest, where it waits. So the wait
-- is bounded, and counts as held.

CREATE OR REPLACE FUNCTION dagbump.take_version(
    dag_version_id uuid,
    dag_id text,
    run_id text,
    older uuid[],
    to_verify boolean
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = @airflow_schema@, pg_temp
SET lock_timeout = '1ms'
AS $take_version$
#variable_conflict use_column
DECLARE
    run record;
BEGIN
    IF NOT to_verify THEN
        SELECT dag_id, run_id INTO run;
        PERFORM
        -- From the stale TIs of that run, those that may be moved: on no version, or on one that was seen
        -- not to be higher than the latest. So a TI that somebody moves further while this goes on stays
        -- there.
        FROM ONLY @airflow_schema@.task_instance AS ti
        WHERE ti.dag_id::text = run.dag_id AND ti.run_id::text BETWEEN run.run_id AND run.run_id
        AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
        AND (ti.dag_version_id IS NULL OR ti.dag_version_id = ANY (older))
        LIMIT 1
        FOR NO KEY UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
    END IF;

    PERFORM FROM @airflow_schema@.dag_version AS version
    WHERE version.id = take_version.dag_version_id
    FOR KEY SHARE SKIP LOCKED;
    IF NOT FOUND THEN
        RAISE lock_not_available;
    END IF;
    RETURN TRUE;
EXCEPTION
    WHEN lock_not_available OR deadlock_detected THEN
        RETURN FALSE;
END
$take_version$;

COMMENT ON FUNCTION dagbump.take_version(uuid, text, text, uuid[], boolean) IS
'Internal: takes the lock on a dag_version row that the bump of a run needs.

For dagbump.bump, and for the Airflow plugin before it creates missing task instances. Answers NULL, and locks nothing, where no stale task instance of the run is free
and the run is not to be verified. Else takes KEY SHARE on the row, SKIP LOCKED, and answers true; false
where another transaction holds the row, or it is not there.
Waits 1 ms at most, and only for a transaction that has updated that row before it locked it FOR UPDATE
or deleted it: there SKIP LOCKED waits.';

REVOKE ALL ON FUNCTION dagbump.take_version(uuid, text, text, uuid[], boolean) FROM PUBLIC;
