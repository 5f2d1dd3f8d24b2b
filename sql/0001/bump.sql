-- dagbump.bump: moves the stale task instances (TIs) of the examined runs to the latest version of their DAG.
--
-- For the scheduler, once per loop and in its transaction; for a person or a
-- cron job, in the safe form (caller_verifies => false).
--
-- Locks, and waits for none: KEY SHARE on the latest dag_version row, the lock
-- that the foreign-key check of the update takes; NO KEY UPDATE on the TIs it
-- moves. What another transaction holds is skipped and counted.
-- Writes task_instance.dag_version_id and updated_at, nothing else; where no TI
-- is stale it writes nothing at all, not even a row lock.
--
-- About the settings, here and in preview: the plan is made once per connection,
-- for any argument, of index look-ups only, so that it is the same with fresh,
-- stale and no statistics. Operands are cast to text because PostgreSQL has no
-- operator of its own for varchar: for an exact match it would also take one that
-- somebody put into Airflow's schema. A run is looked up BETWEEN x AND x: to the
-- planner that is a narrow range, even where the statistics, or the want of them,
-- say that a DAG has but one run; so it takes an index on (dag_id, run_id) and never
-- one on dag_id alone, which would lead through the runs of years.
--
-- The trap that caller_verifies is about: Airflow runs verify_integrity for a
-- run only while the latest version is on none of its TIs and TI-history rows
-- (DagRun.check_version_id_exists_in_dr). The first bump of a run takes that
-- sign away; unless the caller verifies in the same transaction, the TIs of
-- newly added tasks are never created.

CREATE FUNCTION dagbump.bump(
    dag_run_ids bigint[] DEFAULT NULL,
    dag_ids text[] DEFAULT NULL,
    max_runs integer DEFAULT NULL,
    caller_verifies boolean DEFAULT FALSE
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
SET search_path = @airflow_schema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $bump$
DECLARE
    examined_only CONSTANT boolean := TRUE;
    -- Is the optional index there: (dag_id, run_id, dag_version_id) of the unfinished TIs?
    indexed CONSTANT boolean := pg_catalog.to_regclass(
        pg_catalog.format('%I.dagbump_ti_unfinished', @airflow_schema_literal@)
    ) IS NOT NULL;
    candidates bigint[];
    target record;
    stale integer;
    free tid[];
BEGIN
    @include:check_arguments@

    -- 1. The steady loop, with the index: two TIs of each run are looked at, however many there are, the unfinished
    -- ones with the lowest and the highest version (NULL counts as the highest). Where both are on the latest, so are
    -- all between them, and the run is verified. What this query lets pass, the next one judges.
    IF indexed THEN
        SELECT pg_catalog.array_agg(run.id::bigint) INTO candidates
        FROM (
            @include:running@
        ) AS run
        CROSS JOIN LATERAL (
            SELECT version.id
            FROM @airflow_schema@.dag_version AS version
            WHERE version.dag_id::text = run.dag_id::text
            ORDER BY version.version_number DESC
            LIMIT 1
        ) AS latest
        WHERE (dag_ids IS NULL OR run.dag_id::text = ANY (dag_ids)) AND (
            (
                SELECT ti.dag_version_id = latest.id
                FROM @airflow_schema@.task_instance AS ti
                WHERE ti.dag_id::text COLLATE pg_catalog."C" = run.dag_id::text
                AND ti.run_id::text COLLATE pg_catalog."C" = run.run_id::text
                AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
                ORDER BY ti.dag_version_id ASC NULLS LAST
                LIMIT 1
            ) AND (
                SELECT ti.dag_version_id = latest.id
                FROM @airflow_schema@.task_instance AS ti
                WHERE ti.dag_id::text COLLATE pg_catalog."C" = run.dag_id::text
                AND ti.run_id::text COLLATE pg_catalog."C" = run.run_id::text
                AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
                ORDER BY ti.dag_version_id DESC NULLS FIRST
                LIMIT 1
            )
        ) IS NOT TRUE;
        IF candidates IS NULL THEN
            RETURN;
        ELSIF max_runs IS NULL THEN -- a limit counts the other runs as well
            dag_run_ids := candidates;
        END IF;
    END IF;

    -- 2. Which runs have something to do: looks at every TI of the run, once.
    FOR target IN
        SELECT examined.*, verdict.verified, verdict.any_stale
        FROM (
            @include:running_runs@
        ) AS examined
        CROSS JOIN LATERAL (
            -- In one aggregate: bit 1 says that a TI is on the latest version, bit 2 that one is stale.
            SELECT
                coalesce(
                    pg_catalog.bit_or(
                        CASE
                            WHEN ti.dag_version_id = examined.dag_version_id THEN 1
                            WHEN coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed') THEN 2
                            ELSE 0
                        END
                    ),
                    0
                ) AS bits
            FROM @airflow_schema@.task_instance AS ti
            WHERE ti.dag_id::text = examined.dag_id AND ti.run_id::text BETWEEN examined.run_id AND examined.run_id
        ) AS tis
        CROSS JOIN LATERAL (
            SELECT
                (tis.bits & 2) <> 0 AS any_stale,
                (tis.bits & 1) <> 0
                OR EXISTS (
                    SELECT FROM @airflow_schema@.task_instance_history AS past
                    WHERE past.dag_id::text = examined.dag_id AND past.run_id::text BETWEEN examined.run_id AND examined.run_id
                    AND past.dag_version_id = examined.dag_version_id
                    OFFSET 0 -- by run: not hashed, which would read the whole table
                ) AS verified
        ) AS verdict
        WHERE verdict.any_stale OR NOT verdict.verified
        ORDER BY examined.place
    LOOP
        dag_run_id := target.dag_run_id;
        dag_id := target.dag_id;
        run_id := target.run_id;
        dag_version_id := target.dag_version_id;
        version_number := target.version_number;
        bumped := 0;
        locked := 0;
        needs_verify := NOT target.verified;

        -- 3. Safe form: the first bump of a run is Airflow's to make.
        IF needs_verify AND NOT bump.caller_verifies THEN
            RETURN NEXT;
            CONTINUE;
        END IF;

        stale := 0;
        IF target.any_stale THEN
            SELECT pg_catalog.count(*)::integer INTO stale
            FROM @airflow_schema@.task_instance AS ti
            WHERE ti.dag_id::text = target.dag_id AND ti.run_id::text BETWEEN target.run_id AND target.run_id
            AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
            AND ti.dag_version_id IS DISTINCT FROM target.dag_version_id;
        END IF;

        -- 4. Take the lock that the foreign-key check would wait for. Not to be had:
        -- the run waits for the next call, whole, and so does its verify_integrity.
        PERFORM FROM @airflow_schema@.dag_version AS version
        WHERE version.id = target.dag_version_id
        FOR KEY SHARE SKIP LOCKED;
        IF NOT FOUND THEN
            locked := stale;
            needs_verify := FALSE;
        ELSIF stale > 0 THEN
            -- 5. Lock what is free. A TI that has changed since it was counted is judged
            -- anew, as it is now: one that has finished stays where it is.
            SELECT pg_catalog.array_agg(ti.ctid) INTO free
            FROM (
                SELECT ti.ctid
                FROM @airflow_schema@.task_instance AS ti
                WHERE ti.dag_id::text = target.dag_id AND ti.run_id::text BETWEEN target.run_id AND target.run_id
                AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
                AND ti.dag_version_id IS DISTINCT FROM target.dag_version_id
                FOR NO KEY UPDATE SKIP LOCKED
            ) AS ti;

            -- 6. Locked rows stay where they are, so their physical address is good.
            UPDATE @airflow_schema@.task_instance AS ti
            SET dag_version_id = target.dag_version_id, updated_at = pg_catalog.clock_timestamp()
            WHERE ti.ctid = ANY (free);
            GET DIAGNOSTICS bumped = ROW_COUNT;

            -- 7. What is stale still, another transaction holds.
            IF bumped < stale THEN
                SELECT pg_catalog.count(*)::integer INTO locked
                FROM @airflow_schema@.task_instance AS ti
                WHERE ti.dag_id::text = target.dag_id AND ti.run_id::text BETWEEN target.run_id AND target.run_id
                AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
                AND ti.dag_version_id IS DISTINCT FROM target.dag_version_id;
            END IF;
        END IF;

        IF bumped > 0 OR locked > 0 OR needs_verify THEN
            RETURN NEXT;
        END IF;
    END LOOP;
END
$bump$;

COMMENT ON FUNCTION dagbump.bump(bigint[], text[], integer, boolean) IS
'Moves task_instance.dag_version_id of the stale task instances (TIs) of the examined DAG runs to the latest version of their DAG. One call does a whole scheduler loop.

  SELECT * FROM dagbump.bump();                                    every examined run, the safe form
  SELECT * FROM dagbump.bump(dag_ids => ''{etl}'');                  the runs of one DAG
  SELECT * FROM dagbump.bump(''{17,18}'', caller_verifies => true);  two runs; you call verify_integrity

Words
  latest      the dag_version of the DAG with the highest version_number
  unfinished  state is NULL or not one of success, failed, skipped, upstream_failed, removed
  stale       an unfinished TI whose dag_version_id IS DISTINCT FROM latest
  examined    a running run, not pinned to a bundle_version, run_after reached, its DAG neither paused nor stale,
              and the latest version has a serialized_dag row
  unverified  an examined run with the latest version on none of its TIs and none of its TI-history rows:
              Airflow''s own sign that verify_integrity has not run for this version

Arguments
  dag_run_ids      dag_run.id; NULL: every examined run; an empty array: none
  dag_ids          NULL: every DAG; an empty array: none
  max_runs         at most so many examined runs, in the scheduler''s order; NULL: no limit
  caller_verifies  false (safe): an unverified run is left to Airflow, untouched, and answered with needs_verify.
                   true: it is bumped too, and the caller promises to run verify_integrity for it in this transaction.
                   Breaking that promise means that the TIs of newly added tasks are never created.

Answers one row per run for which bumped > 0, locked > 0 or needs_verify; no row where nothing changed.
  bumped        TIs moved by this call
  locked        stale TIs left for the next call because another transaction holds them, or holds the dag_version row
  needs_verify  the run was unverified before this call; false where the dag_version row is held

Locks: KEY SHARE on dag_version, NO KEY UPDATE on the TIs moved, both SKIP LOCKED: it never waits for a row lock.
Commits nothing. Writes nothing where nothing is stale.
Errors: 22023 for a negative max_runs, a NULL inside an array, or caller_verifies NULL;
40001 under REPEATABLE READ and SERIALIZABLE where a TI has changed since the snapshot: try the transaction again.';

REVOKE ALL ON FUNCTION dagbump.bump(bigint[], text[], integer, boolean) FROM PUBLIC;
