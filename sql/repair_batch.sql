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
@include:settings@
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
    @include:require_tables@
    @include:check_dag_run_ids@
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
            @include:repairable_runs@
        LOOP
            IF NOT run.verified THEN
                unverified_runs := unverified_runs + 1;
                CONTINUE;
            END IF;

            IF run.pinned THEN
                -- Only those on no version: older names none.
                older := '{}';
                SELECT pg_catalog.count(*)::integer INTO stale
                @include:movable@;
            ELSE
                @include:count_stale@
            END IF;
            @include:move_stale@
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
