-- Takes: item, ok, detail, findings, recorded_functions.
item := 'functions';
SELECT pg_catalog.string_agg(difference.finding, '; ' ORDER BY difference.finding) INTO findings
FROM (
    SELECT
        CASE
            WHEN found.called IS NULL THEN 'missing: dagbump.' || shipped.called
            WHEN shipped.called IS NULL THEN 'not of this release: dagbump.' || found.called
            ELSE 'changed: dagbump.' || found.called
        END AS finding
    FROM pg_catalog.jsonb_each_text(coalesce(recorded_functions, '{}')) AS shipped (called, digest)
    FULL JOIN (
        @include:function_digests@
    ) AS found ON found.called = shipped.called
    WHERE (found.digest = shipped.digest) IS NOT TRUE
) AS difference;
ok := recorded_functions IS NOT NULL AND findings IS NULL;
detail := CASE
    WHEN recorded_functions IS NULL THEN 'There is no record of how they should be. Run `dagbump upgrade`.'
    WHEN findings IS NULL THEN 'as shipped'
    ELSE findings || '. `dagbump upgrade` restores what is missing or changed. Look at what is not of this release, and drop it.'
END;
RETURN NEXT;
