-- Says in dagbump.installation what there is now, for the command line, the plugin and the next upgrade.
COMMENT ON TABLE dagbump.alembic_version IS 'Alembic''s own: the revisions that this database holds.';

DELETE FROM dagbump.installation;
INSERT INTO dagbump.installation (
    airflow_schema, airflow_shape, revision, works_with_packages_from, release, installed_at, installed_by
)
VALUES (
    @airflow_schema_literal@,
    '3.0 to 3.3',
    @revision_literal@,
    @works_with_packages_from_literal@,
    @release_literal@,
    pg_catalog.now(),
    SESSION_USER
);
