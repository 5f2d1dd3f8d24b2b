-- Takes: alone (transaction), next_transaction.
-- That 32-bit xid, extended to the 64-bit xid nearest to next_transaction.
next_transaction + (alone.transaction::text::bigint - (next_transaction & 4294967295) + 6442450944) % 4294967296 - 2147483648
