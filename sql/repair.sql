-- dagbump.repair: what a DBA runs on a live system: everything that may be moved is moved, in small transactions.
--
-- PostgreSQL lets no procedure COMMIT that is SECURITY DEFINER or carries a SET. So
-- this one runs as the caller and on the caller's search_path: it touches no table,
-- every name in it is qualified, operators and types too, and the work is done by
-- functions that are SECURITY DEFINER.
--
-- Locks: what repair_batch locks, no longer than a batch.

CREATE OR REPLACE PROCEDURE dagbump.repair(
    dag_ids pg_catalog.text[] DEFAULT NULL,
    batch_size integer DEFAULT 1000
)
LANGUAGE plpgsql SECURITY INVOKER
AS $repair$
DECLARE
    -- A batch looks at so many runs at most, however little there is to do in them.
    runs_at_once CONSTANT integer := 100;
    ids bigint[];
    held bigint[];
    next_run integer;
    batch pg_catalog.record;
    moved bigint := 0::bigint;
    unverified bigint := 0::bigint;
    moved_in_pass bigint;
    locked bigint;
BEGIN
    -- Inside a transaction block every COMMIT fails, which is better said now. (The one in this block always does; but
    -- inside a transaction block with this text, in a server that speaks English.)
    BEGIN
        COMMIT;
    EXCEPTION
        WHEN invalid_transaction_termination THEN
            IF SQLERRM OPERATOR(pg_catalog.=) 'invalid transaction termination' THEN
                RAISE EXCEPTION 'dagbump.repair commits after each batch, which PostgreSQL does not allow here'
                    USING ERRCODE = 'invalid_transaction_termination',
                    HINT = 'CALL it outside of a transaction block (BEGIN, or a driver that is not in autocommit), '
                    'and by itself; or use the command line: dagbump repair.';
            END IF;
    END;

    PERFORM FROM dagbump.repair_batch('{}', batch_size); -- it refuses a batch_size that means nothing
    SELECT pg_catalog.array_agg(run.dag_run_id) INTO ids FROM dagbump.repairable(dag_ids) AS run;

    -- A pass over the runs, then one over those in which others held something; until a pass moves nothing.
    LOOP
        moved_in_pass := 0::bigint;
        locked := 0::bigint;
        held := '{}';
        next_run := 1;
        WHILE next_run OPERATOR(pg_catalog.<=) pg_catalog.cardinality(ids) LOOP
            SELECT * INTO batch
            FROM dagbump.repair_batch(
                ids[next_run:next_run OPERATOR(pg_catalog.+) runs_at_once OPERATOR(pg_catalog.-) 1], batch_size
            );
            COMMIT;
            next_run := next_run OPERATOR(pg_catalog.+) batch.looked_at;
            moved_in_pass := moved_in_pass OPERATOR(pg_catalog.+) batch.task_instances;
            moved := moved OPERATOR(pg_catalog.+) batch.task_instances;
            locked := locked OPERATOR(pg_catalog.+) batch.locked_task_instances;
            held := held OPERATOR(pg_catalog.||) batch.locked_runs;
            unverified := unverified OPERATOR(pg_catalog.+) batch.unverified_runs;
            IF batch.task_instances OPERATOR(pg_catalog.>) 0 THEN
                RAISE NOTICE
                    'dagbump.repair: % task instances moved; % of % runs done with',
                    moved, next_run OPERATOR(pg_catalog.-) 1, pg_catalog.cardinality(ids);
            END IF;
        END LOOP;
        EXIT WHEN moved_in_pass OPERATOR(pg_catalog.=) 0::bigint OR locked OPERATOR(pg_catalog.=) 0::bigint;
        ids := held;
    END LOOP;

    RAISE NOTICE
        'dagbump.repair: done: % task instances moved; % left that other transactions hold; % runs left to Airflow, '
        'whose verify_integrity is due',
        moved, locked, unverified;
END
$repair$;

COMMENT ON PROCEDURE dagbump.repair IS
'Moves every stale task instance that may be moved, in small transactions, on a live system.

  CALL dagbump.repair();
  CALL dagbump.repair(dag_ids => ''{etl}'', batch_size => 500);

Does what dagbump.bump does in its safe form, at most batch_size task instances at a time, in one run or
in several, with a COMMIT and a NOTICE after each batch. And in pinned runs the task instances on no
version at all, which nothing would ever start, get the version that their run was created with
(dag_run.created_dag_version_id), where that is still there.
It ends when nothing is left but what other transactions hold. Runs whose verify_integrity is due are left
to Airflow, which gets to them within a loop. SELECT * FROM dagbump.preview(); then says what is left, and
why.

Cancel it at any moment, and call it again: what is committed stays, and it goes on with the rest. Several
at once share the work. Each batch is recorded in dagbump.history.

Runs with the rights of whoever calls it, who needs EXECUTE on it, on dagbump.repairable and on
dagbump.repair_batch. (A superuser does well to SET ROLE to the owner first.)
Locks: NO KEY UPDATE on the task instances of a batch, KEY SHARE on their dag_version, until its COMMIT;
waits for no row lock. statement_timeout counts for the whole CALL.
Errors: 2D000 inside a transaction block, where no procedure can COMMIT; 22023 for a batch_size that is
NULL or less than 1, for a NULL inside dag_ids and for an array of arrays; those of dagbump.bump.';

REVOKE ALL ON PROCEDURE dagbump.repair(text[], integer) FROM PUBLIC;
