-- Takes: alone (transaction), next_transaction.
-- True while that transaction, or the one that it is a part of, is in progress. Of the numbers of
-- 64 bits that its own of 32 can be the end of, it has the one nearest to the next; the first three
-- are no transactions.
CASE
    WHEN @include:whole_number@ < 3 THEN FALSE
    ELSE pg_catalog.pg_xact_status((@include:whole_number@)::text::xid8) = 'in progress'
END
