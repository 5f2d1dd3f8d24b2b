-- Takes: con (of pg_constraint, on dagbump.history).
-- True for its primary key.
(
    con.contype::text = 'p' AND pg_catalog.cardinality(con.conkey) = 1 AND EXISTS (
        SELECT FROM pg_catalog.pg_attribute AS key
        WHERE key.attrelid = con.conrelid AND key.attnum = con.conkey[1] AND key.attname::text = 'id'
    )
)
