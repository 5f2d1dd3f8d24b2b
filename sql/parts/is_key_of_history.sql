-- Takes: con (of pg_constraint, on dagbump.history).
-- True if this constraint is the primary key, on the column id.
(
    con.contype::text = 'p' AND pg_catalog.cardinality(con.conkey) = 1 AND EXISTS (
        SELECT FROM pg_catalog.pg_attribute AS key
        WHERE key.attrelid = con.conrelid AND key.attnum = con.conkey[1] AND key.attname::text = 'id'
    )
)
