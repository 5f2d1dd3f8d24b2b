-- Records in dagbump.installation what is installed now, for the command line, the plugin and the next upgrade.
COMMENT ON TABLE dagbump.alembic_version IS 'Alembic''s own: the revisions that this database holds.';

REVOKE ALL ON TABLE dagbump.alembic_version FROM PUBLIC;

DELETE FROM dagbump.installation;
INSERT INTO dagbump.installation (
    airflow_schema, airflow_shape, revision, works_with_packages_from, release, installed_at, installed_by, functions, one_row
)
VALUES (
    @airflow_schema_literal@,
    @airflow_shape_literal@,
    @revision_literal@,
    @works_with_packages_from_literal@,
    @release_literal@,
    pg_catalog.now(),
    SESSION_USER,
    (
        SELECT pg_catalog.jsonb_object_agg(function.called, function.digest)
        FROM (
            @include:function_digests@
        ) AS function
    ),
    TRUE
);
