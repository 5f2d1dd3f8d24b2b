-- Takes: alone (transaction), next_transaction.
-- The number of that transaction with 64 bits.
next_transaction + (alone.transaction::text::bigint - (next_transaction & 4294967295) + 6442450944) % 4294967296 - 2147483648
