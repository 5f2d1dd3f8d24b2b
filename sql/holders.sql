-- dagbump.holders: shows which transactions have locked what dagbump.bump or repair would move.
--
-- For a person who asks why a run is not bumped. It looks for the same stale task
-- instances (TIs) as bump, also in runs that bump leaves alone. The xmax of a row tells which transaction may have locked the
-- row, but not how; KEY SHARE, for example, does not block bump. So if xmax may be a
-- transaction in progress, holders tries the lock that bump would take.
--
-- Locks: those of bump, SKIP LOCKED, only on rows that may be locked, for one run at a
-- time. They are released before the next run. It waits for no row lock and writes
-- nothing.

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
@include:settings@
AS $holders$
#variable_conflict use_column
DECLARE
    examined_only CONSTANT boolean := FALSE;
    chosen CONSTANT bigint[] := dag_run_ids;
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
    @include:require_tables@
    @include:check_dag_run_ids@
    @include:check_dag_ids@

    -- On a hot standby no row can be locked.
    IF pg_catalog.pg_is_in_recovery() THEN
        RETURN;
    ELSIF pg_catalog.current_setting('transaction_read_only')::boolean THEN
        RAISE EXCEPTION 'holders cannot look in a read-only transaction'
            USING ERRCODE = 'read_only_sql_transaction',
            HINT = 'It writes nothing, but it tries row locks and releases them. Use a READ WRITE transaction.';
    END IF;

    FOR run IN
        SELECT
            judged.dag_run_id,
            judged.dag_id,
            judged.run_id,
            judged.version_number,
            judged.obstacle,
            CASE WHEN judged.obstacle = 'pinned' THEN judged.pinned_version_id ELSE judged.dag_version_id END AS dag_version_id
        FROM (
            @include:judged_runs@
        ) AS judged
    LOOP
        -- 1. Count the stale TIs of the run.
        @include:count_stale@
        IF stale = 0 THEN
            CONTINUE;
        END IF;
        -- In a pinned run, only TIs without a version are moved, by repair.
        IF run.obstacle = 'pinned' THEN
            older := '{}';
        END IF;

        -- 2. Find which of these rows another transaction may have locked.
        SELECT pg_catalog.array_agg(doubt.ctid) INTO doubtful
        FROM (
            SELECT pg_catalog.unnest(doubt.ctids) AS ctid
            FROM (
                SELECT ti.xmax::text::bigint AS number, pg_catalog.array_agg(ti.ctid) AS ctids
                @include:movable@
                AND ti.xmax <> '0'::xid
                GROUP BY ti.xmax::text::bigint
            ) AS doubt
            WHERE EXISTS (SELECT FROM dagbump.transactions_behind(doubt.number))
        ) AS doubt;
        SELECT EXISTS (SELECT FROM dagbump.transactions_behind(version.xmax::text::bigint)) INTO version_doubtful
        FROM @airflow_schema@.dag_version AS version
        WHERE version.id = run.dag_version_id;

        -- 3. Try the locks. The error at the end rolls back and so releases them.
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

    -- 4. Find the transactions. Without the clear, pg_stat_activity repeats what it has shown before in this
    -- transaction.
    PERFORM pg_catalog.pg_stat_clear_snapshot();
    RETURN QUERY
    WITH thing AS MATERIALIZED (
        SELECT
            run.id::bigint AS dag_run_id,
            run.dag_id::text AS dag_id,
            run.run_id::text AS run_id,
            'task_instance' AS held,
            ti.task_id::text AS task_id,
            @include:map_index@,
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
        @include:holders_of_things@
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
'Shows which transactions have locked the task instances that dagbump.bump or repair would move.

  SELECT * FROM dagbump.holders();
  SELECT DISTINCT pid, gid, application_name, state, xact_start FROM dagbump.holders(''{17}'');

Answers one row per locked row and transaction, the oldest transaction first. No row if nothing is locked.
It looks at the stale task instances (TIs) of all running runs, also of runs that bump leaves alone. In a
pinned run it looks at the TIs without a version, and at the version of the run.
  dag_run_id, dag_id, run_id   the run that has to wait
  held              task_instance  one of its stale TIs is locked
                    dag_version    the version that its TIs would get is locked, so all of them wait
  task_id, map_index   the TI; NULL for a dag_version
  pid               the backend; NULL for a prepared transaction, or if none was found
  usename, application_name, client_addr, state, xact_start
                    as in pg_stat_activity. For a prepared transaction: its owner, state ''prepared'', and
                    the time of PREPARE TRANSACTION.
  gid               of a prepared transaction; COMMIT PREPARED or ROLLBACK PREPARED ends it
  certain           true: this transaction has locked the row. false: one of the transactions shown for
                    the row has locked it, or no transaction was found. PostgreSQL does not list a
                    savepoint that has been released. If the row was locked in such a savepoint, the
                    holder may be any of several transactions.

Arguments
  dag_run_ids  dag_run.id; NULL: every running run; an empty array: none
  dag_ids      NULL: every DAG; an empty array: none

If client_addr, state and xact_start are NULL for sessions of other roles, ask a superuser to GRANT
pg_read_all_stats to the owner of Airflow''s tables.
To end a transaction, first find out what its session does. Then: SELECT pg_terminate_backend(pid);

Locks: on rows that may be locked, it tries the locks of bump with SKIP LOCKED, for milliseconds. A bump at
the same time may count one of these rows in "locked". It waits for no row lock, writes nothing, and keeps
no lock.
On a hot standby it answers no row.
Errors
  22023  an array contains NULL or is an array of arrays
  25006  the transaction is read-only
  40001  under REPEATABLE READ or SERIALIZABLE, a row has changed since the snapshot: try again';

REVOKE ALL ON FUNCTION dagbump.holders(bigint[], text[]) FROM PUBLIC;
