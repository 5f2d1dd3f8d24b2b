-- Takes: latest, serialized (all NULL if there is no such row).
-- The reason why a running run is not examined, if that reason is the latest version of its DAG; NULL otherwise.
CASE
    WHEN latest.id IS NULL THEN 'no_version'
    WHEN serialized.dag_version_id IS NULL THEN 'no_serialized_dag'
END
