-- Takes: recorded_functions.
SELECT
    3 AS place,
    'functions' AS item,
    recorded_functions IS NOT NULL AND found.findings IS NULL AS ok,
    CASE
        WHEN recorded_functions IS NULL THEN 'There is no record of how they should be. Run `dagbump upgrade`.'
        WHEN found.findings IS NULL THEN 'as shipped'
        ELSE found.findings
            || '. `dagbump upgrade` restores functions that are missing or changed. Look at functions that are not of this release, and drop them.'
    END AS detail
FROM (
    SELECT pg_catalog.string_agg(difference.finding, '; ' ORDER BY difference.finding) AS findings
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
    ) AS difference
) AS found
