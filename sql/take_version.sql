-- dagbump.take_version: locks a dag_version row as the foreign-key check of a bump does, or answers false.
--
-- dagbump.bump calls it, and so does the plugin. It is a separate function, because
-- lock_timeout can be set for one function, and its exception block releases the locks.
-- Its plans are made under the settings of bump, which calls it.
--
-- Locks: NO KEY UPDATE on one stale TI of the run, unless to_verify is true. If all are
-- locked, it ends there. Then KEY SHARE on the dag_version row. Both are SKIP LOCKED. If
-- the row cannot be locked, the lock on the TI is released.
--
-- SKIP LOCKED waits in one case. A transaction has updated the row without changing its
-- key, and then has locked it FOR UPDATE or deleted it. PostgreSQL then locks the version
-- of the row that other transactions can see, follows the chain of updates to the newest version, and
-- waits there. lock_timeout limits that wait to 1 ms. After it, the row counts as locked.

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
        @include:movable@
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

dagbump.bump calls it, and so does the Airflow plugin before it creates missing task instances. With
to_verify = false it first locks one stale task instance of the run. If none can be locked, it answers
NULL and locks nothing. Then it takes KEY SHARE on the row, SKIP LOCKED, and answers true. It answers
false if another transaction has locked the row, or if there is no such row.
It waits at most 1 ms, in one case: a transaction has updated that row and then has locked it FOR UPDATE
or deleted it. SKIP LOCKED waits there.';

REVOKE ALL ON FUNCTION dagbump.take_version(uuid, text, text, uuid[], boolean) FROM PUBLIC;
