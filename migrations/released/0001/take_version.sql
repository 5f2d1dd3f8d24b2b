-- dagbump.take_version: takes the lock on a dag_version row that the foreign-key check of a bump takes, or says that it
-- is not to be had.
--
-- For dagbump.bump. Apart from it because only a function can bound a wait for
-- itself alone, and give back what it has locked.
--
-- Locks: KEY SHARE on the row, SKIP LOCKED. That waits for nothing, but for one
-- thing: of a row that a transaction has updated (its key left as it was) and then
-- locked FOR UPDATE or deleted, PostgreSQL locks the version that everybody sees,
-- and then follows the chain of updates to the newest, where it waits, SKIP
-- LOCKED or not. So the wait is bounded, and counts as held.

CREATE OR REPLACE FUNCTION dagbump.take_version(dag_version_id uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
-- Names mean Airflow's tables, whatever the caller's path; and the plan is made once per
-- connection, for any argument, of index look-ups only, so that it is the same with fresh, stale
-- and no statistics.
SET search_path = @airflow_schema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
SET lock_timeout = '10ms'
AS $take_version$
BEGIN
    PERFORM FROM @airflow_schema@.dag_version AS version
    WHERE version.id = take_version.dag_version_id
    FOR KEY SHARE SKIP LOCKED;
    RETURN FOUND;
EXCEPTION
    WHEN lock_not_available OR deadlock_detected THEN
        RETURN FALSE;
END
$take_version$;

COMMENT ON FUNCTION dagbump.take_version(uuid) IS
'For dagbump.bump alone: takes KEY SHARE on a dag_version row and answers true, or answers false where another
transaction holds the row. Waits 10 ms at most, and only for a transaction that has updated that row before it locked or
deleted it. Answers false for a row that is not there.';

REVOKE ALL ON FUNCTION dagbump.take_version(uuid) FROM PUBLIC;
