-- dagbump.transactions_behind: the transactions in progress that a row's xmax may stand for.
--
-- For dagbump.holders. xmax is the number of a transaction, or that of a multixact,
-- a list of transactions; which of the two, a bit says that SQL does not see. So a
-- number is read both ways, and what is not in progress drops out. What is left of
-- both, holders judges by the locks on the table.
--
-- Reads pg_xact and pg_multixact; locks nothing, waits for nothing.

CREATE OR REPLACE FUNCTION dagbump.transactions_behind(number bigint) RETURNS TABLE (
    transaction xid,
    mode text
)
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = @airflow_schema@, pg_temp
AS $transactions_behind$
#variable_conflict use_column
DECLARE
    -- In the caller's snapshot: near enough to say in which round of 2^32 numbers one is.
    next_transaction CONSTANT bigint := pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint;
BEGIN
    -- Both raise for a number that is none: one not given out yet, or forgotten long ago.
    BEGIN
        RETURN QUERY
        SELECT alone.transaction, NULL::text
        FROM (SELECT number::text::xid AS transaction) AS alone
        WHERE CASE
            WHEN next_transaction + (alone.transaction::text::bigint - (next_transaction & 4294967295) + 6442450944) % 4294967296 - 2147483648 < 3 THEN FALSE
            ELSE pg_catalog.pg_xact_status((next_transaction + (alone.transaction::text::bigint - (next_transaction & 4294967295) + 6442450944) % 4294967296 - 2147483648)::text::xid8) = 'in progress'
        END;
    EXCEPTION
        WHEN invalid_parameter_value THEN
            NULL;
    END;
    BEGIN
        RETURN QUERY
        SELECT alone.transaction, alone.mode
        FROM pg_catalog.pg_get_multixact_members(number::text::xid) AS alone (transaction, mode)
        WHERE CASE
            WHEN next_transaction + (alone.transaction::text::bigint - (next_transaction & 4294967295) + 6442450944) % 4294967296 - 2147483648 < 3 THEN FALSE
            ELSE pg_catalog.pg_xact_status((next_transaction + (alone.transaction::text::bigint - (next_transaction & 4294967295) + 6442450944) % 4294967296 - 2147483648)::text::xid8) = 'in progress'
        END;
    EXCEPTION
        WHEN invalid_parameter_value OR internal_error THEN
            NULL;
    END;
END
$transactions_behind$;

COMMENT ON FUNCTION dagbump.transactions_behind(bigint) IS
'Internal: the transactions in progress that the xmax of a row may stand for.

For dagbump.holders alone. Answers one row for each:
  transaction  its number, which may be that of a subtransaction
  mode         as pg_get_multixact_members says it, where xmax is read as the number of a multixact;
               NULL where it is read as that of a transaction
Locks: none.';

REVOKE ALL ON FUNCTION dagbump.transactions_behind(bigint) FROM PUBLIC;
