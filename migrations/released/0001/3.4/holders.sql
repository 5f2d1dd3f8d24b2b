-- dagbump.holders: who holds the task instances (TIs) and dag_versions that dagbump.bump counts in "locked".
--
-- For a person in front of a run that is not bumped. Looks for the same TIs as bump
-- does, and then, where a row's xmax may stand for a transaction in progress, tries
-- the lock that bump would take, because xmax does not say how a row is held: KEY
-- SHARE is in nobody's way.
--
-- Locks, and waits for none: those of bump, SKIP LOCKED, on the rows that somebody
-- may hold; of one run at a time, and given back before the next. Writes nothing.

CREATE OR REPLACE FUNCTION dagbump.holders(
    dag_run_ids bigint[] DEFAULT NULL,
    dag_ids text[] DEFAULT NULL
) RETURNS TABLE (
    dag_run_id bigint,
    dag_id text,
    run_id text,
    held text,
    task_id text,
    map_index integer,
    pid integer,
    usename text,
    application_name text,
    client_addr text,
    state text,
    xact_start timestamptz,
    gid text,
    certain boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
-- Names mean Airflow's tables, whatever the caller's path; a policy that would hide rows of them is
-- an error; and the plan is made once per connection, for any argument, of index look-ups only, so
-- that it is the same with fresh, stale and no statistics.
SET search_path = @airflow_schema@, pg_temp
SET row_security = off
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $holders$
#variable_conflict use_column
DECLARE
    examined_only CONSTANT boolean := TRUE;
    ids CONSTANT bigint[] := dag_run_ids;
    run record;
    stale integer;
    older uuid[];
    doubtful tid[];
    free tid[];
    version_doubtful boolean;
    version_taken boolean;
    held_tis tid[] := ARRAY[]::tid[];
    held_runs bigint[] := ARRAY[]::bigint[];
    held_versions uuid[] := ARRAY[]::uuid[];
BEGIN
    -- Fails where a migration of Airflow has changed its tables under the function. The planner makes TRUE of it.
    IF NOT dagbump.tables_fit(@task_instance_literal@::regclass) THEN
        RETURN;
    END IF;
    -- Refuses a list that means nothing.
    IF pg_catalog.array_ndims(dag_run_ids) > 1 THEN
        RAISE EXCEPTION 'dag_run_ids must not be an array of arrays'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Each element is the id of a DAG run.';
    ELSIF pg_catalog.array_position(dag_run_ids, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'dag_run_ids must not contain NULL'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Each element is the id of a DAG run.';
    END IF;
    -- Refuses a list that means nothing.
    IF pg_catalog.array_ndims(dag_ids) > 1 THEN
        RAISE EXCEPTION 'dag_ids must not be an array of arrays'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL in place of the array means every DAG.';
    ELSIF pg_catalog.array_position(dag_ids, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'dag_ids must not contain NULL'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL in place of the array means every DAG.';
    END IF;

    -- Here nobody can hold a row, and none can be locked to see.
    IF pg_catalog.pg_is_in_recovery() THEN
        RETURN;
    ELSIF pg_catalog.current_setting('transaction_read_only')::boolean THEN
        RAISE EXCEPTION 'holders cannot look in a read-only transaction'
            USING ERRCODE = 'read_only_sql_transaction',
            HINT = 'It writes nothing, but tries locks, and gives them back; use a transaction that is READ WRITE.';
    END IF;

    FOR run IN
        -- The running DAG runs, one row each: the latest version of the DAG, and what, if anything, keeps
        -- the run from being examined. The one place that says what "examined" means (limited_runs, which
        -- stops at a limit, is held to it by a test).
        --
        --   obstacle   NULL for an examined run, else why it is not one: pinned, paused, stale_dag, not_due, no_version,
        --              no_serialized_dag; with examined_only, the others are left out
        SELECT
            run.id::bigint AS dag_run_id,
            run.dag_id::text AS dag_id,
            run.run_id::text AS run_id,
            run.run_type::text AS run_type,
            run.logical_date,
            run.created_dag_version_id,
            run.last_scheduling_decision,
            run.run_after,
            latest.id AS dag_version_id,
            latest.version_number,
            CASE
                WHEN run.obstacle IS NOT NULL THEN run.obstacle
                WHEN latest.id IS NULL THEN 'no_version'
                WHEN serialized.dag_version_id IS NULL THEN 'no_serialized_dag'
            END AS obstacle
        FROM (
            SELECT
                running.*,
                CASE
                    -- Airflow tests bundle_version for truth: '' is as good as NULL.
                    WHEN running.bundle_version::text <> '' THEN 'pinned'
                    -- Both are nullable up to Airflow 3.1, which examines only runs where they are false.
                    WHEN dag.dag_id IS NOT NULL AND dag.is_paused IS NOT FALSE THEN 'paused'
                    WHEN dag.dag_id IS NOT NULL AND dag.is_stale IS NOT FALSE THEN 'stale_dag'
                    WHEN running.run_after > pg_catalog.now() THEN 'not_due'
                END AS obstacle
            FROM (
                -- The running DAG runs among them.
                SELECT
                    run.id,
                    run.dag_id,
                    run.run_id,
                    run.run_type,
                    run.logical_date,
                    run.bundle_version,
                    run.created_dag_version_id,
                    run.last_scheduling_decision,
                    run.run_after,
                    run.backfill_id
                FROM @airflow_schema@.dag_run AS run
                WHERE ids IS NULL AND run.state::text = 'running'
                UNION ALL
                -- Of these two the executor runs one: a list of ids costs a look-up each, not a pass over all running runs.
                SELECT
                    run.id,
                    run.dag_id,
                    run.run_id,
                    run.run_type,
                    run.logical_date,
                    run.bundle_version,
                    run.created_dag_version_id,
                    run.last_scheduling_decision,
                    run.run_after,
                    run.backfill_id
                FROM @airflow_schema@.dag_run AS run
                WHERE run.id = ANY (ids) AND run.state::text = 'running'
            ) AS running
            LEFT JOIN LATERAL (
                SELECT dag.dag_id, dag.is_paused, dag.is_stale
                FROM @airflow_schema@.dag AS dag
                WHERE dag.dag_id::text = running.dag_id::text
                OFFSET 0 -- by run: not joined, which could go through all DAGs for each run
            ) AS dag ON TRUE
            WHERE dag_ids IS NULL OR running.dag_id::text = ANY (dag_ids)
        ) AS run
        LEFT JOIN LATERAL (
            -- The latest version of its DAG: the highest version_number, whatever created_at says.
            SELECT version.id, version.version_number
            FROM @airflow_schema@.dag_version AS version
            WHERE version.dag_id::text = run.dag_id::text
            ORDER BY version.version_number DESC
            LIMIT 1
        ) AS latest ON TRUE
        LEFT JOIN LATERAL (
            SELECT serialized.dag_version_id -- which is unique
            FROM @airflow_schema@.serialized_dag AS serialized
            WHERE serialized.dag_version_id = latest.id
            OFFSET 0 -- so here
        ) AS serialized ON TRUE
        WHERE NOT examined_only OR (run.obstacle IS NULL AND serialized.dag_version_id IS NOT NULL)
    LOOP
        -- 1. What bump would move, or have to leave.
        -- Counts the stale TIs of that run, and collects the versions they are on; none that is higher
        -- than the latest of the run.
        SELECT
            coalesce(pg_catalog.sum(held.tis), 0)::integer,
            coalesce(pg_catalog.array_agg(held.dag_version_id) FILTER (WHERE held.dag_version_id IS NOT NULL), '{}')
        INTO stale, older
        FROM (
            SELECT ti.dag_version_id, pg_catalog.count(*) AS tis
            FROM ONLY @airflow_schema@.task_instance AS ti
            WHERE ti.dag_id::text = run.dag_id AND ti.run_id::text BETWEEN run.run_id AND run.run_id
            AND ti.working_set IS TRUE AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
            AND ti.dag_version_id IS DISTINCT FROM run.dag_version_id
            GROUP BY ti.dag_version_id
        ) AS held
        LEFT JOIN @airflow_schema@.dag_version AS version ON version.id = held.dag_version_id
        WHERE (version.dag_id::text = run.dag_id AND version.version_number > run.version_number) IS NOT TRUE;
        IF stale = 0 THEN
            CONTINUE;
        END IF;

        -- 2. Which of it somebody may hold.
        SELECT pg_catalog.array_agg(doubt.ctid) INTO doubtful
        FROM (
            SELECT pg_catalog.unnest(doubt.ctids) AS ctid
            FROM (
                SELECT ti.xmax::text::bigint AS number, pg_catalog.array_agg(ti.ctid) AS ctids
                -- From the stale TIs of that run, those that may be moved: on no version, or on one that was seen
                -- not to be higher than the latest. So a TI that somebody moves further while this goes on stays
                -- there.
                FROM ONLY @airflow_schema@.task_instance AS ti
                WHERE ti.dag_id::text = run.dag_id AND ti.run_id::text BETWEEN run.run_id AND run.run_id
                AND ti.working_set IS TRUE AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
                AND (ti.dag_version_id IS NULL OR ti.dag_version_id = ANY (older))
                AND ti.xmax <> '0'::xid
                GROUP BY ti.xmax::text::bigint
            ) AS doubt
            WHERE EXISTS (SELECT FROM dagbump.transactions_behind(doubt.number))
        ) AS doubt;
        SELECT EXISTS (SELECT FROM dagbump.transactions_behind(version.xmax::text::bigint)) INTO version_doubtful
        FROM @airflow_schema@.dag_version AS version
        WHERE version.id = run.dag_version_id;

        -- 3. Try, and give back.
        free := NULL;
        version_taken := TRUE;
        IF doubtful IS NOT NULL OR version_doubtful THEN
            BEGIN
                SELECT pg_catalog.array_agg(ti.ctid) INTO free
                FROM (
                    SELECT ti.ctid
                    FROM ONLY @airflow_schema@.task_instance AS ti
                    WHERE ti.ctid = ANY (doubtful)
                    FOR NO KEY UPDATE SKIP LOCKED
                ) AS ti;
                IF version_doubtful THEN
                    version_taken := dagbump.take_version(run.dag_version_id, run.dag_id, run.run_id, older, TRUE);
                END IF;
                RAISE SQLSTATE 'DBU00';
            EXCEPTION
                WHEN SQLSTATE 'DBU00' THEN
                    NULL;
            END;
        END IF;
        held_tis := pg_catalog.array_cat(held_tis, ARRAY(
            SELECT pg_catalog.unnest(doubtful)
            EXCEPT
            SELECT pg_catalog.unnest(free)
        ));
        IF NOT version_taken THEN
            held_runs := pg_catalog.array_append(held_runs, run.dag_run_id);
            held_versions := pg_catalog.array_append(held_versions, run.dag_version_id);
        END IF;
    END LOOP;

    IF pg_catalog.cardinality(held_tis) = 0 AND pg_catalog.cardinality(held_runs) = 0 THEN
        RETURN;
    END IF;

    -- 4. Who it is. What pg_stat_activity has shown before in this transaction, it would show again.
    PERFORM pg_catalog.pg_stat_clear_snapshot();
    RETURN QUERY
    WITH thing AS MATERIALIZED (
        SELECT
            run.id::bigint AS dag_run_id,
            run.dag_id::text AS dag_id,
            run.run_id::text AS run_id,
            'task_instance' AS held,
            ti.task_id::text AS task_id,
            ti.region_index AS map_index,
            ti.tableoid AS relation,
            ti.xmax::text::bigint AS number
        FROM ONLY @airflow_schema@.task_instance AS ti
        JOIN @airflow_schema@.dag_run AS run ON run.dag_id::text = ti.dag_id::text AND run.run_id::text = ti.run_id::text
        WHERE ti.ctid = ANY (held_tis)
        UNION ALL
        SELECT
            run.id::bigint,
            run.dag_id::text,
            run.run_id::text,
            'dag_version',
            NULL,
            NULL,
            version.tableoid,
            version.xmax::text::bigint
        FROM pg_catalog.unnest(held_runs) WITH ORDINALITY AS waiting (id, place)
        JOIN @airflow_schema@.dag_run AS run ON run.id::bigint = waiting.id
        JOIN @airflow_schema@.dag_version AS version ON version.id = held_versions[waiting.place]
    ),

    holder AS MATERIALIZED (
        -- The transactions that hold them, for each kind and xmax; of the caller's own, nothing.
        --
        -- Whoever has locked a row holds a lock on its table, until its transaction ends. That tells which
        -- reading of an xmax is the right one, and is all there is to find the transaction of a savepoint
        -- that was released: its number is in no list, but has been given out after that of its
        -- transaction.
        WITH lock AS MATERIALIZED (
            SELECT lock.*
            FROM pg_catalog.pg_locks AS lock
            WHERE lock.granted
        ),

        transaction AS MATERIALIZED (
            SELECT
                lock.virtualtransaction,
                lock.pid,
                pg_catalog.array_agg(lock.transactionid::text) AS numbers,
                pg_catalog.max(pg_catalog.age(lock.transactionid)) AS age
            FROM lock
            WHERE lock.locktype = 'transactionid' AND lock.mode = 'ExclusiveLock'
            GROUP BY lock.virtualtransaction, lock.pid
        ),

        -- In the way of NO KEY UPDATE on a TI, or of KEY SHARE on a dag_version. An update that leaves a version's key alone is
        -- so where a stronger lock of the same transaction on the new row follows it.
        reading AS MATERIALIZED (
            SELECT marked.held, marked.relation, marked.number, behind.transaction, behind.mode
            FROM (
                SELECT DISTINCT thing.held, thing.relation, thing.number FROM thing
            ) AS marked
            CROSS JOIN LATERAL dagbump.transactions_behind(marked.number) AS behind
            WHERE behind.mode IS NULL
            OR (marked.held = 'task_instance' AND behind.mode <> 'keysh')
            OR (marked.held = 'dag_version' AND behind.mode IN ('forupd', 'upd', 'nokeyupd'))
        ),

        suspect AS MATERIALIZED (
            SELECT
                reading.held,
                reading.number,
                reading.mode,
                transaction.virtualtransaction,
                transaction.pid,
                transaction.numbers,
                pg_catalog.count(*) OVER (PARTITION BY reading.held, reading.number, reading.transaction::text, reading.mode) AS suspects,
                pg_catalog.count(reading.mode) OVER (PARTITION BY reading.held, reading.number) AS in_a_list,
                pg_catalog.count(*) OVER (PARTITION BY reading.held, reading.number) AS all_readings
            FROM reading
            JOIN transaction ON (
                reading.transaction::text = ANY (transaction.numbers)
                OR (
                    transaction.age > pg_catalog.age(reading.transaction)
                    AND NOT EXISTS (
                        SELECT FROM transaction AS listed
                        WHERE reading.transaction::text = ANY (listed.numbers)
                    )
                )
            )
            WHERE transaction.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
            AND EXISTS (
                SELECT FROM lock
                WHERE lock.virtualtransaction = transaction.virtualtransaction
                AND lock.locktype = 'relation'
                AND lock.mode <> 'AccessShareLock'
                AND lock.database = (
                    SELECT database.oid FROM pg_catalog.pg_database AS database
                    WHERE database.datname = pg_catalog.current_database()
                )
                AND lock.relation = reading.relation
            )
        )

        SELECT
            suspect.held,
            suspect.number,
            suspect.pid,
            coalesce(activity.usename, prepared.owner)::text AS usename,
            activity.application_name::text AS application_name,
            pg_catalog.host(activity.client_addr) AS client_addr,
            coalesce(activity.state, CASE WHEN prepared.gid IS NOT NULL THEN 'prepared' END) AS state,
            coalesce(activity.xact_start, prepared.prepared) AS xact_start,
            prepared.gid,
            suspect.certain
        FROM (
            -- In one row, where it holds a thing by several of its savepoints.
            SELECT
                suspect.held,
                suspect.number,
                suspect.virtualtransaction,
                suspect.pid,
                suspect.numbers,
                pg_catalog.bool_or(suspect.suspects = 1) AND pg_catalog.bool_and(suspect.in_a_list IN (0, suspect.all_readings)) AS certain
            FROM suspect
            GROUP BY suspect.held, suspect.number, suspect.virtualtransaction, suspect.pid, suspect.numbers
        ) AS suspect
        LEFT JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = suspect.pid
        LEFT JOIN pg_catalog.pg_prepared_xacts AS prepared
            ON suspect.pid IS NULL AND prepared.transaction::text = ANY (suspect.numbers)
    )

    SELECT
        thing.dag_run_id,
        thing.dag_id,
        thing.run_id,
        thing.held,
        thing.task_id,
        thing.map_index,
        holder.pid,
        holder.usename,
        holder.application_name,
        holder.client_addr,
        holder.state,
        holder.xact_start,
        holder.gid,
        holder.certain IS TRUE
    FROM thing
    LEFT JOIN holder ON holder.held = thing.held AND holder.number = thing.number
    ORDER BY
        holder.xact_start NULLS LAST,
        holder.pid,
        thing.dag_run_id,
        thing.held,
        thing.task_id,
        thing.map_index;
END
$holders$;

COMMENT ON FUNCTION dagbump.holders(bigint[], text[]) IS
'Shows who holds the task instances that dagbump.bump counts in "locked".

  SELECT * FROM dagbump.holders();
  SELECT DISTINCT pid, gid, application_name, state, xact_start FROM dagbump.holders(''{17}'');

Answers one row per thing and transaction that holds it, the oldest transaction first; no row where bump
would leave nothing for a lock. Looks at the runs that bump examines: SELECT dagbump.help(''bump'');
  dag_run_id, dag_id, run_id   the run that has to wait
  held              task_instance  one stale TI of it
                    dag_version    the latest version of its DAG: all its stale TIs have to wait
  task_id, map_index   the TI; NULL for a dag_version
  pid               the backend; NULL for a prepared transaction
  usename, application_name, client_addr, state, xact_start
                    as in pg_stat_activity. For a prepared transaction its owner, state ''prepared'' and
                    the time of PREPARE TRANSACTION.
  gid               of a prepared transaction; it ends with COMMIT PREPARED or ROLLBACK PREPARED
  certain           false: it is one of the transactions shown for this thing. So it is where the holder
                    has locked it in a savepoint that it has released since, which PostgreSQL does not
                    list, and more than one transaction may be the one; pid is NULL where none is found.

Arguments
  dag_run_ids  dag_run.id; NULL: every examined run; an empty array: none
  dag_ids      NULL: every DAG; an empty array: none

What sessions of other roles do, pg_stat_activity shows to those that may know: where client_addr, state
and xact_start are NULL, have a superuser GRANT pg_read_all_stats to the owner of Airflow''s tables.
To end a transaction: SELECT pg_terminate_backend(pid); but look first what it is.

Locks: those of bump, SKIP LOCKED, on rows that somebody may hold, for milliseconds: a bump at the same
time may count one of them in "locked". It waits for no row lock, and nothing is written or kept.
On a hot standby: no row. Errors: 22023 for a NULL inside an array and for an array of arrays;
25006 in a read-only transaction;
40001 under REPEATABLE READ and SERIALIZABLE where a row has changed since the snapshot: try again.';

REVOKE ALL ON FUNCTION dagbump.holders(bigint[], text[]) FROM PUBLIC;
