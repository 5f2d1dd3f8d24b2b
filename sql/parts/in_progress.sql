-- Takes: alone (transaction), next_transaction.
-- True if that transaction is in progress; for a subtransaction, if its parent is. A 32-bit xid is
-- extended to the 64-bit xid nearest to next_transaction. Xids 0 to 2 are reserved.
CASE
    WHEN @include:whole_number@ < 3 THEN FALSE
    ELSE pg_catalog.pg_xact_status((@include:whole_number@)::text::xid8) = 'in progress'
END
