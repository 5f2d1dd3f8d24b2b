-- dagbump.transactions_behind: lists the transactions in progress that the xmax of a row may stand for.
--
-- dagbump.holders calls it. xmax is the id of a transaction, or of a multixact, which is
-- a list of transactions. SQL cannot see the bit that tells which. So the number is read
-- both ways, and transactions that are not in progress are left out. If both readings
-- leave some, holders decides by the locks on the table.
--
-- It reads pg_xact and pg_multixact. It locks nothing and waits for nothing.

CREATE OR REPLACE FUNCTION dagbump.transactions_behind(number bigint) RETURNS TABLE (
    transaction xid,
    mode text
)
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = @airflow_schema@, pg_temp
AS $transactions_behind$
#variable_conflict use_column
DECLARE
    -- From the caller's snapshot: recent enough to extend a 32-bit xid to 64 bits.
    next_transaction CONSTANT bigint := pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint;
BEGIN
    -- Both functions raise an error for an unknown id: not assigned yet, or too old.
    BEGIN
        RETURN QUERY
        SELECT alone.transaction, NULL::text
        FROM (SELECT number::text::xid AS transaction) AS alone
        WHERE @include:in_progress@;
    EXCEPTION
        WHEN invalid_parameter_value THEN
            NULL;
    END;
    BEGIN
        RETURN QUERY
        SELECT alone.transaction, alone.mode
        FROM pg_catalog.pg_get_multixact_members(number::text::xid) AS alone (transaction, mode)
        WHERE @include:in_progress@;
    EXCEPTION
        WHEN invalid_parameter_value OR internal_error THEN
            NULL;
    END;
END
$transactions_behind$;

COMMENT ON FUNCTION dagbump.transactions_behind(bigint) IS
'Internal: lists the transactions in progress that the xmax of a row may stand for.

Only dagbump.holders calls it. Answers one row for each transaction:
  transaction  its xid; it may be that of a subtransaction
  mode         if xmax is read as a multixact: the mode, as pg_get_multixact_members names it;
               if xmax is read as an xid: NULL
Locks: none.';

REVOKE ALL ON FUNCTION dagbump.transactions_behind(bigint) FROM PUBLIC;
