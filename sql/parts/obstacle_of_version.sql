-- Takes: latest, serialized (all NULL if there is no such row).
-- Why a running run is not examined, as far as the latest version of its DAG tells; NULL if that allows it.
CASE
    WHEN latest.id IS NULL THEN 'no_version'
    WHEN serialized.dag_version_id IS NULL THEN 'no_serialized_dag'
END
