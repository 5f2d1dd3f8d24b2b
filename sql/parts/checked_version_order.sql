-- Takes: item, ok, detail, findings.
item := 'version order';
BEGIN
    SELECT pg_catalog.string_agg(run.dag_id, ', ' ORDER BY run.dag_id) INTO findings
    FROM (
        SELECT dag.dag_id, latest.id AS dag_version_id
        FROM (
            SELECT DISTINCT running.dag_id::text AS dag_id
            FROM @airflow_schema@.dag_run AS running
            WHERE running.state::text = 'running'
        ) AS dag
        CROSS JOIN LATERAL (
            SELECT version.id
            FROM @airflow_schema@.dag_version AS version
            WHERE version.dag_id::text = dag.dag_id
            ORDER BY version.version_number DESC
            LIMIT 1
        ) AS latest
    ) AS run
    WHERE @include:other_is_latest@;
    ok := findings IS NULL;
    detail := CASE
        WHEN ok THEN 'in the DAGs of running runs, Airflow takes the same version for the latest as dagbump'
        ELSE 'Up to 3.2, Airflow takes the newest created_at for the latest version of a DAG; dagbump takes the highest '
            'version_number. These differ for: ' || findings || '. So the safe form of bump and `dagbump run` leave stale runs '
            'of these DAGs alone, because a scheduler without the plugin would move back what they move. Set the clocks of all '
            'DAG processors right, then put the versions in order: docs/stuck-runs.md has the statement. Or upgrade Airflow to '
            '3.3.'
    END;
EXCEPTION
    WHEN undefined_table OR undefined_column OR undefined_function OR insufficient_privilege THEN
        ok := TRUE;
        detail := 'cannot be checked before the items above are mended';
END;
RETURN NEXT;
