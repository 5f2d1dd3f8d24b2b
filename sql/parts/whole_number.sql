-- Takes: alone (transaction), next_transaction.
-- That xid, extended to 64 bits.
next_transaction + (alone.transaction::text::bigint - (next_transaction & 4294967295) + 6442450944) % 4294967296 - 2147483648
