-- Takes: chosen, dag_ids, max_runs.
-- The ids of the first max_runs examined runs, in the order of Airflow's scheduler.
--
-- The runs are sorted first and looked up afterwards, so that the look-ups end with the limit. Pinned runs are left
-- out before that, because there can be many of them.
SELECT pg_catalog.array_agg(first.id::bigint)
FROM (
    SELECT run.id
    FROM (
        SELECT run.*
        FROM (
            SELECT running.*, @include:sort_ordinal@ AS sort_ordinal
            FROM (
                @include:running_runs@
            ) AS running
            WHERE dag_ids IS NULL OR running.dag_id::text = ANY (dag_ids)
        ) AS run
        WHERE NOT @include:pinned@
        ORDER BY @include:scheduler_order@
        OFFSET 0
    ) AS run
    @include:dag_and_latest_version@
    WHERE @include:examined@
    ORDER BY @include:scheduler_order@
    LIMIT max_runs
) AS first
