-- dagbump.prune_history: removes old rows of dagbump.history.
--
-- For the owner, by hand or by pg_cron. It is SECURITY INVOKER, so it lends nobody the
-- right to remove records. A role that may DELETE from the table needs no other right.
--
-- Locks: the rows that it removes, SKIP LOCKED. Only another prune locks such rows.

CREATE OR REPLACE FUNCTION dagbump.prune_history(keep interval) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = @airflow_schema@, pg_temp
AS $prune_history$
DECLARE
    kept_since timestamptz;
    removed bigint;
BEGIN
    @include:refuse_read_only@
    IF keep IS NULL OR keep < '0 seconds'::interval THEN
        RAISE EXCEPTION 'keep must be an interval that is not negative, and is %', coalesce(keep::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'SELECT dagbump.prune_history(''90 days''); removes what is older than 90 days.';
    END IF;
    BEGIN
        kept_since := pg_catalog.now() - keep;
    EXCEPTION
        WHEN datetime_field_overflow THEN
            RAISE EXCEPTION 'keep goes back further than a timestamp can: %', keep
                USING ERRCODE = 'invalid_parameter_value', HINT = 'No record is that old.';
    END;

    DELETE FROM dagbump.history AS history
    WHERE history.ctid = ANY (ARRAY(
        SELECT past.ctid
        FROM dagbump.history AS past
        WHERE past.bumped_at < kept_since
        FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END
$prune_history$;

COMMENT ON FUNCTION dagbump.prune_history(interval) IS
'Removes the rows of dagbump.history that are older than keep, and answers how many it removed.

  SELECT dagbump.prune_history(''90 days'');

Every night, with pg_cron:
  SELECT cron.schedule(''dagbump history'', ''17 3 * * *'', $$SELECT dagbump.prune_history(''90 days'')$$);

For the role that owns dagbump. It runs with the rights of the caller, which must be allowed to DELETE
there. Rows are never removed without such a call. ''0'' removes everything that was recorded before now.
Errors: 22023 if keep is NULL or negative, or reaches back further than a timestamp can; 25006 on a hot
standby.
It waits for no row lock.';

REVOKE ALL ON FUNCTION dagbump.prune_history(interval) FROM PUBLIC;
