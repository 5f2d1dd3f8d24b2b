-- Takes: item, ok, detail, findings.
item := 'history';
SELECT pg_catalog.string_agg(altered.attname, ', ' ORDER BY altered.attname) INTO findings
FROM (
    @include:altered_history@
) AS altered;
ok := findings IS NULL AND EXISTS (
    SELECT FROM pg_catalog.pg_constraint AS con
    WHERE con.conrelid = pg_catalog.to_regclass('dagbump.history')::oid AND @include:is_key_of_history@
);
detail := CASE
    WHEN pg_catalog.to_regclass('dagbump.history') IS NULL
        THEN 'The table dagbump.history is missing, and without it nothing is moved. Run `dagbump upgrade`, which makes it.'
    WHEN ok THEN 'the table is as shipped'
    WHEN findings IS NULL
        THEN 'The table dagbump.history has no primary key: with a publication FOR ALL TABLES, prune_history fails. '
        'Run `dagbump upgrade`, which adds it.'
    ELSE 'The table dagbump.history has been altered, and so nothing is moved: ' || findings || '. Run `dagbump upgrade`, which '
        'mends it, and keeps what it holds.'
END;
RETURN NEXT;
