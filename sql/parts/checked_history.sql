-- Takes: item, ok, detail, findings.
item := 'history';
SELECT pg_catalog.string_agg(altered.attname, ', ' ORDER BY altered.attname) INTO findings
FROM (
    @include:altered_history@
) AS altered;
ok := findings IS NULL;
detail := CASE
    WHEN pg_catalog.to_regclass('dagbump.history') IS NULL
        THEN 'The table dagbump.history is missing, and without it nothing is moved. Run `dagbump upgrade`, which makes it.'
    WHEN findings IS NULL THEN 'the table is as shipped'
    ELSE 'The table dagbump.history has been altered, and so nothing is moved: ' || findings || '. Run `dagbump upgrade`, which '
        'mends it, and keeps what it holds.'
END;
RETURN NEXT;
