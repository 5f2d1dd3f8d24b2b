-- dagbump.repair: moves every stale TI that may be moved, in small transactions. For a DBA on a live system.
--
-- PostgreSQL does not let a procedure COMMIT if it is SECURITY DEFINER or has a SET
-- clause. So this one runs as the caller, with the caller's search_path. That is safe
-- because it touches no table and qualifies every name, operators and types included.
-- The functions that it calls are SECURITY DEFINER and do the work.
--
-- Locks: those of repair_batch, until the end of each batch.

CREATE OR REPLACE PROCEDURE dagbump.repair(
    dag_ids pg_catalog.text[] DEFAULT NULL,
    batch_size integer DEFAULT 300
)
LANGUAGE plpgsql SECURITY INVOKER
AS $repair$
DECLARE
    -- A batch looks at this many runs at most, even if they have nothing to do.
    runs_at_once CONSTANT integer := 100;
    ids bigint[];
    runs_with_locked bigint[];
    next_run integer;
    batch pg_catalog.record;
    moved bigint := 0::bigint;
    unverified bigint := 0::bigint;
    moved_in_pass bigint;
    locked bigint;
BEGIN
    -- Inside a transaction block every COMMIT would fail, so refuse before any work is done. A COMMIT in a block with
    -- EXCEPTION always fails. The error has this text only inside a transaction block, and only if the server's
    -- messages are English.
    BEGIN
        COMMIT;
    EXCEPTION
        WHEN invalid_transaction_termination THEN
            IF SQLERRM OPERATOR(pg_catalog.=) 'invalid transaction termination' THEN
                RAISE EXCEPTION 'dagbump.repair commits after each batch, which PostgreSQL does not allow here'
                    USING ERRCODE = 'invalid_transaction_termination',
                    HINT = 'CALL it outside of a transaction block (no BEGIN; autocommit in a driver), and send no other '
                    'statement with it; or use the command line: dagbump repair.';
            END IF;
    END;

    PERFORM FROM dagbump.repair_batch('{}', batch_size); -- raises an error for a wrong batch_size
    SELECT pg_catalog.array_agg(run.dag_run_id) INTO ids FROM dagbump.repairable(dag_ids) AS run;

    -- The first pass goes over all runs, each further pass over the runs that had locked TIs. It ends when a pass has
    -- moved nothing or found no locked TI.
    LOOP
        moved_in_pass := 0::bigint;
        locked := 0::bigint;
        runs_with_locked := '{}';
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
            runs_with_locked := runs_with_locked OPERATOR(pg_catalog.||) batch.locked_runs;
            unverified := unverified OPERATOR(pg_catalog.+) batch.unverified_runs;
            IF batch.task_instances OPERATOR(pg_catalog.>) 0 THEN
                RAISE NOTICE
                    'dagbump.repair: % task instances moved; % of % runs done',
                    moved, next_run OPERATOR(pg_catalog.-) 1, pg_catalog.cardinality(ids);
            END IF;
        END LOOP;
        EXIT WHEN moved_in_pass OPERATOR(pg_catalog.=) 0::bigint OR locked OPERATOR(pg_catalog.=) 0::bigint;
        ids := runs_with_locked;
    END LOOP;

    RAISE NOTICE
        'dagbump.repair: done: % task instances moved; % left, locked by another transaction; % runs left to '
        'Airflow because verify_integrity is due',
        moved, locked, unverified;
END
$repair$;

COMMENT ON PROCEDURE dagbump.repair IS
'Moves every stale task instance that may be moved, in small transactions, on a live system.

  CALL dagbump.repair();
  CALL dagbump.repair(dag_ids => ''{etl}'', batch_size => 500);

It does what dagbump.bump does in its safe form, with at most batch_size task instances per batch. A
batch can cover several runs. After each batch there is a COMMIT, and a NOTICE if it moved something.
In pinned runs, task instances without a version get the version that their run was created with
(dag_run.created_dag_version_id), if that still exists. From Airflow 3.1 on, Airflow never starts a task
instance without a version.
It ends when only locked task instances are left. Runs whose verify_integrity is due are left to
Airflow''s scheduler. Afterwards SELECT * FROM dagbump.preview(); shows what is left, and why.

You can cancel it at any moment and call it again: what is committed stays, and the next call does the
rest. Several calls at once share the work. Each batch is recorded in dagbump.history.

It runs with the rights of the caller, which needs EXECUTE on it, on dagbump.repairable and on
dagbump.repair_batch. A superuser should SET ROLE to the owner first.
Locks: NO KEY UPDATE on the task instances of a batch and KEY SHARE on their dag_version rows, until the
COMMIT. It waits for no row lock. statement_timeout applies to the whole CALL.
Errors: 2D000 inside a transaction block, because a procedure cannot COMMIT there; 22023 if batch_size is
NULL or less than 1, or if dag_ids contains NULL or is an array of arrays; and those of dagbump.bump.';

REVOKE ALL ON PROCEDURE dagbump.repair(text[], integer) FROM PUBLIC;
