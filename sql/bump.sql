-- dagbump.bump: moves the stale task instances (TIs) of the examined runs to the latest version of their DAG.
--
-- The scheduler calls it once per loop, in its own transaction. A person or a cron
-- job calls it in the safe form (caller_verifies => false).
--
-- Locks: NO KEY UPDATE on the TIs that it moves, and KEY SHARE on the latest
-- dag_version row, which the foreign-key check of the update locks in the same way.
-- Both use SKIP LOCKED. A row that another transaction has locked is left and counted.
-- Writes: task_instance.dag_version_id and updated_at, and one row of dagbump.history
-- for each run in which it moved something. If there is nothing to move or to verify,
-- it writes nothing and takes no row lock.
--
-- varchar columns are cast to text because pg_catalog has no operators for varchar.
-- Without the cast, an operator for varchar that somebody created in Airflow's schema
-- would be an exact match, and PostgreSQL would call it.
--
-- Why caller_verifies exists: Airflow runs verify_integrity for a run only while the
-- latest version is on none of its TIs and none of their past tries
-- (DagRun.check_version_id_exists_in_dr). The first bump of a run puts it on a TI. If
-- the caller does not run verify_integrity in the same transaction, the TIs of newly
-- added tasks are never created.

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
@include:settings@
AS $bump$
-- Inside a query, `run` is its alias; outside, it is the loop's record.
#variable_conflict use_column
DECLARE
    examined_only CONSTANT boolean := TRUE;
    chosen bigint[] := dag_run_ids; -- the runs to look at; steps 1 and 2 narrow it
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
    versions_locked uuid[] := ARRAY[]::uuid[];
BEGIN
    @include:require_tables@
    @include:check_arguments@
    @include:refuse_read_only@
    IF report_all IS NULL THEN
        RAISE EXCEPTION 'report_all must be true or false, and is NULL'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave it out for the runs with something to do.';
    END IF;

    -- 1. With max_runs: choose the runs.
    IF max_runs IS NOT NULL THEN
        limited := coalesce((
            @include:limited_runs@
        ), '{}');
        chosen := limited;
    END IF;

    -- 2. With the optional index: find the runs that may have something to do. Step 3 judges them. With report_all,
    -- step 3 uses the index itself, because a run must be judged and answered from one snapshot.
    SELECT TRUE, CASE
        WHEN NOT report_all THEN (
            @include:candidates@
        )
    END
    INTO indexed, candidates
    FROM pg_catalog.pg_index AS index
    WHERE @include:is_optional_index@;
    by_index := indexed IS TRUE AND report_all;
    IF indexed AND NOT report_all THEN
        IF candidates IS NULL THEN
            RETURN;
        END IF;
        chosen := candidates;
    END IF;

    -- 3. Find the runs that have something to do.
    FOR run IN
        @include:due_runs@
    LOOP
        dag_run_id := run.dag_run_id;
        dag_id := run.dag_id;
        run_id := run.run_id;
        dag_version_id := run.dag_version_id;
        version_number := run.version_number;
        bumped := 0;
        locked := 0;
        needs_verify := NOT run.verified;

        -- 4. The safe form leaves a run to Airflow if it is unverified, or if Airflow's latest version is another one.
        IF NOT bump.caller_verifies THEN
            IF run.any_stale AND NOT needs_verify THEN
                needs_verify := @include:other_is_latest@;
            END IF;
            IF needs_verify THEN
                RETURN NEXT;
                CONTINUE;
            END IF;
        END IF;
        IF NOT run.any_stale AND NOT needs_verify THEN
            RETURN NEXT; -- for report_all
            CONTINUE;
        END IF;

        -- 5. Judge the run again. While other runs were moved, a newer version may have landed, or the run may have
        -- been pinned, paused or ended. The next call deals with it.
        IF NOT EXISTS (
            SELECT FROM (
                SELECT
                    @include:columns_of_run@
                FROM @airflow_schema@.dag_run AS run
                WHERE run.id = bump.dag_run_id AND run.state::text = 'running'
            ) AS run
            @include:dag_and_latest_version@
            WHERE @include:examined@
            AND latest.id = bump.dag_version_id
        ) THEN
            CONTINUE;
        END IF;

        -- 6. Count the stale TIs. A TI on a higher version_number is not stale, whoever put it there.
        @include:count_stale@

        -- 7. Lock the TIs that are free, move them, and record it.
        @include:move_stale@

        -- An unverified run whose dag_version row is locked, and that has no stale TI, gets no row, because a row with
        -- needs_verify = false would mean that nothing is due.
        IF bumped > 0 OR locked > 0 OR needs_verify OR (report_all AND run.verified) THEN
            RETURN NEXT;
        END IF;
    END LOOP;
END
$bump$;

COMMENT ON FUNCTION dagbump.bump(bigint[], text[], integer, boolean, boolean, text) IS
'Moves the stale task instances of the examined DAG runs to the latest version of their DAG.

One call does the work of a whole scheduler loop.

  SELECT * FROM dagbump.bump();                                    every examined run, the safe form
  SELECT * FROM dagbump.bump(dag_ids => ''{etl}'');                  the runs of one DAG
  SELECT * FROM dagbump.bump(''{17,18}'', caller_verifies => true);  two runs; you call verify_integrity

Words
  TI          task instance; a past try is not one
  latest      the dag_version of the DAG with the highest version_number
  unfinished  state is NULL, or is none of success, failed, skipped, upstream_failed, removed
  stale       an unfinished TI whose dag_version_id IS DISTINCT FROM latest
  examined    a running run, not pinned to a bundle_version, run_after reached, its DAG neither
              paused nor stale, and the latest version has a serialized_dag row
  unverified  an examined run in which no TI and no past try is on the latest version. Airflow runs
              verify_integrity only for such a run.

Arguments
  dag_run_ids      dag_run.id; NULL: every examined run; an empty array: none
  dag_ids          NULL: every DAG; an empty array: none
  max_runs         at most this many examined runs, in the scheduler''s order; NULL: no limit
  caller_verifies  false (the safe form): an unverified run is left to Airflow, untouched, and answered
                   with needs_verify. So is a run with stale TIs if Airflow takes another version for
                   the latest. Up to 3.2 it takes the newest created_at, and would move the TIs back.
                   true: such runs are bumped too. The caller promises to run verify_integrity, in this
                   transaction, for each run that is answered with needs_verify. If it does not, the TIs
                   of newly added tasks are never created.
  report_all       true: answers every run that the call examined, even if there was nothing to do
  caller           who calls, in words; recorded in dagbump.history

Answers one row per run with bumped > 0, locked > 0 or needs_verify. If nothing changed, no row.
  bumped        TIs that this call moved
  locked        stale TIs left for a later call, because another transaction has locked them or the
                dag_version row
  needs_verify  the run was unverified before this call. In the safe form it is also true if Airflow,
                up to 3.2, takes another version for the latest: dagbump.check() names the DAG.
                With caller_verifies it is false if the dag_version row is locked.
With report_all: one row per examined run. A run is missing from that answer if it was not examined, or
if it is left to a later call. The latter happens if a newer version of its DAG landed during this call;
and with caller_verifies, if the run is unverified, has no stale TI, and its dag_version row is locked.
No TI moves to a lower version_number.

Locks: NO KEY UPDATE on the TIs that it moves and KEY SHARE on their dag_version row, both SKIP LOCKED.
It waits for no row lock, except for at most 1 ms in one case: SELECT dagbump.help(''take_version'');
If there is nothing to move or to verify, it takes no row lock and writes nothing. It commits nothing.
It records in dagbump.history what it has moved.
Errors
  22023  max_runs is negative; caller_verifies or report_all is NULL; an array contains NULL or is an
         array of arrays
  25006  the transaction is read-only, as on a hot standby
  40001  under REPEATABLE READ or SERIALIZABLE, a TI has changed since the snapshot: try again
  42501  row-level security hides rows from the owner of Airflow''s tables (FORCE ROW LEVEL SECURITY)
  55P03  another transaction has locked the whole of dagbump.history, as VACUUM FULL and CREATE INDEX
         do: try again
  DBU02  Airflow''s tables have changed since the last upgrade of dagbump: run dagbump upgrade
  DBU05  dagbump.history is missing or altered: run dagbump upgrade';

REVOKE ALL ON FUNCTION dagbump.bump(bigint[], text[], integer, boolean, boolean, text) FROM PUBLIC;
