-- Takes: tis, owner.
SELECT
    10 AS place,
    'triggers' AS item,
    found.ok AND found.strange IS NULL AS ok,
    CASE
        WHEN found.strange IS NOT NULL THEN 'These would run code of another role with the rights of the owner, and so nothing is moved: '
            || found.strange || '. Make each function belong to the owner of task_instance, or to a superuser; or drop the trigger.'
        WHEN found.findings IS NULL THEN 'a bump fires none'
        WHEN found.ok THEN 'a bump fires these, row by row, as the owner: ' || found.findings
        ELSE 'A bump fires: ' || found.findings || '. A DEFERRABLE trigger may run at the COMMIT, with the rights of the role that '
            'commits. Make it NOT DEFERRABLE, or let only the owner bump.'
    END AS detail
FROM (
    SELECT
        coalesce(pg_catalog.bool_and(NOT trigger.tgdeferrable), TRUE) AS ok,
        pg_catalog.string_agg(
            pg_catalog.format('%I calls %s', trigger.tgname, trigger.tgfoid::regproc), '; ' ORDER BY trigger.tgname
        ) AS findings,
        (
            @include:triggers_of_strangers@
        ) AS strange
    FROM pg_catalog.pg_trigger AS trigger
    WHERE trigger.tgrelid = tis AND NOT trigger.tgisinternal
    AND (trigger.tgtype::integer & 16) <> 0 -- UPDATE
    AND trigger.tgenabled::text NOT IN ('D', 'R')
    AND (
        pg_catalog.cardinality(trigger.tgattr::smallint[]) = 0 OR EXISTS (
            SELECT FROM pg_catalog.pg_attribute AS attribute
            WHERE attribute.attrelid = tis AND attribute.attnum = ANY (trigger.tgattr::smallint[])
            AND attribute.attname::text IN ('dag_version_id', 'updated_at')
        )
    )
) AS found
