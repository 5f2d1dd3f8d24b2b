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
@include:settings@
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
    @include:require_tables@
    @include:check_arguments@
    IF report_all IS NULL THEN
        RAISE EXCEPTION 'report_all must be true or false, and is NULL'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave it out for the runs with something to do.';
    END IF;

    -- 1. A limit: which runs it leaves.
    IF max_runs IS NOT NULL THEN
        limited := coalesce((
            @include:limited_runs@
        ), '{}');
        ids := limited;
    END IF;

    -- 2. The steady loop, with the index: what this lets pass, the next step judges. Where all runs are to be answered, the
    -- next step looks for itself: from one snapshot, so that no version is answered for a run that was judged by another.
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
        ids := candidates;
    END IF;

    -- 3. Which runs have something to do.
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

        -- 4. The safe form: the first bump of a run is Airflow's to make; and where Airflow takes another version for the
        -- latest, each bump is.
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

        -- 5. Look again: while other runs were moved, a newer version may have landed, or the run have been pinned, paused,
        -- ended. The next call sees to it.
        ids := ARRAY[run.dag_run_id];
        IF NOT EXISTS (
            SELECT FROM (
                @include:judged_runs@
            ) AS again
            WHERE again.dag_version_id = run.dag_version_id
        ) THEN
            CONTINUE;
        END IF;

        -- 6. Count. A TI on a higher version, whoever has put it there, is not stale.
        stale := 0;
        older := NULL;
        IF run.any_stale THEN
            @include:count_stale@
        END IF;

        -- 7. Lock what is free, move it, record it.
        @include:move_stale@

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
                   needs_verify. So is a run with stale TIs where Airflow takes another version for the
                   latest: up to 3.2 it takes the newest created_at, and would move them back.
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
  needs_verify  the run was unverified before this call; false where the dag_version row is held. In the
                safe form also true where Airflow, up to 3.2, takes another version for the latest:
                dagbump.check() names the DAG
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
55P03 where another transaction has locked the whole of dagbump.history, as VACUUM FULL and CREATE INDEX do:
try again;
40001 under REPEATABLE READ and SERIALIZABLE where a TI has changed since the snapshot: try again.';

REVOKE ALL ON FUNCTION dagbump.bump(bigint[], text[], integer, boolean, boolean, text) FROM PUBLIC;
