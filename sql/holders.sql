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
@include:settings@
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
    @include:require_tables@
    @include:check_dag_run_ids@
    @include:check_dag_ids@

    -- Here nobody can hold a row, and none can be locked to see.
    IF pg_catalog.pg_is_in_recovery() THEN
        RETURN;
    ELSIF pg_catalog.current_setting('transaction_read_only')::boolean THEN
        RAISE EXCEPTION 'holders cannot look in a read-only transaction'
            USING ERRCODE = 'read_only_sql_transaction',
            HINT = 'It writes nothing, but tries locks, and gives them back; use a transaction that is READ WRITE.';
    END IF;

    FOR run IN
        @include:judged_runs@
    LOOP
        -- 1. What bump would move, or have to leave.
        @include:count_stale@
        IF stale = 0 THEN
            CONTINUE;
        END IF;

        -- 2. Which of it somebody may hold.
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
