-- Takes: nothing.
-- True if dagbump.installation has the primary key and the check that limit it to one row.
(
    2 = (
        SELECT pg_catalog.count(*)::integer
        FROM pg_catalog.pg_constraint AS con
        JOIN pg_catalog.pg_attribute AS key ON key.attrelid = con.conrelid AND key.attnum = con.conkey[1]
        WHERE con.conrelid = pg_catalog.to_regclass('dagbump.installation')::oid AND con.contype::text IN ('p', 'c')
        AND pg_catalog.cardinality(con.conkey) = 1 AND key.attname::text = 'one_row'
    )
)
