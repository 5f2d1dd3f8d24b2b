-- dagbump.repair_batch: moves one batch of a repair. The caller commits it.
--
-- dagbump.repair and the command line call it in a loop. It judges each given
-- run as the run is now. So a caller cannot move a TI that a repair would not move.
--
-- Locks: as dagbump.bump, on at most batch_size TIs. It waits for no row lock.

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
    chosen bigint[];
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
    versions_locked uuid[] := ARRAY[]::uuid[];
BEGIN
    @include:require_tables@
    @include:check_dag_run_ids@
    @include:refuse_read_only@
    IF batch_size IS NULL OR batch_size < 1 THEN
        RAISE EXCEPTION 'batch_size must be 1 or more, and is %', coalesce(batch_size::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'At most this many task instances are moved between two COMMITs.';
    END IF;
    looked_at := 0;
    task_instances := 0;
    moved_runs := '{}';
    locked_task_instances := 0;
    locked_runs := '{}';
    unverified_runs := 0;

    FOREACH id IN ARRAY coalesce(dag_run_ids, '{}') LOOP
        chosen := ARRAY[id];
        stale := 0;
        bumped := 0;
        locked := 0;
        room := batch_size - task_instances;

        -- At most one row, because one run is chosen.
        FOR run IN
            @include:repairable_runs@
        LOOP
            IF NOT run.verified THEN
                unverified_runs := unverified_runs + 1;
                CONTINUE;
            END IF;

            IF run.pinned THEN
                -- Only TIs without a version may be moved, so older is empty.
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
            EXIT; -- the batch is full; the next one goes on with this run
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
'Internal: moves one batch of dagbump.repair. The caller commits it.

Goes through the runs in the given order, until batch_size task instances are moved. In any run,
it moves only the task instances that dagbump.repair may move. Answers one row:
  looked_at              how many of the runs are done, from the first; go on with the next
  task_instances         how many were moved
  moved_runs             the runs that they are in; the next batch may go on with the last of them
  locked_task_instances  how many stale ones another transaction has locked, in the runs that are done
  locked_runs            the runs that they are in
  unverified_runs        how many runs are left to Airflow, because verify_integrity is due
Locks and errors: as dagbump.bump; also 22023 if batch_size is NULL or less than 1, or if dag_run_ids
contains NULL or is an array of arrays.';

REVOKE ALL ON FUNCTION dagbump.repair_batch(bigint[], integer) FROM PUBLIC;
