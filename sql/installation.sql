-- dagbump.installation: what the functions were rendered for, and by what. One row, written by each upgrade.
--
-- What the command line and the Airflow plugin compare with what they find. No default, constraint or trigger: so there is
-- nothing in it that could run somebody else's code, and an upgrade can tell.

CREATE TABLE IF NOT EXISTS dagbump.installation (
    airflow_schema text NOT NULL,
    airflow_shape text NOT NULL,
    revision text NOT NULL,
    works_with_packages_from text NOT NULL,
    release text NOT NULL,
    installed_at timestamptz NOT NULL,
    installed_by text NOT NULL,
    functions jsonb NOT NULL
);

COMMENT ON TABLE dagbump.installation IS
'One row: what dagbump''s functions in this database were rendered for, and by what. Each upgrade writes it anew.
Whoever uses the command line or the Airflow plugin needs SELECT on it.';
COMMENT ON COLUMN dagbump.installation.airflow_schema IS 'The schema of Airflow''s tables.';
COMMENT ON COLUMN dagbump.installation.airflow_shape IS 'The Airflow releases whose tables have the shape that was found.';
COMMENT ON COLUMN dagbump.installation.revision IS 'The Alembic revision, the optional index aside.';
COMMENT ON COLUMN dagbump.installation.works_with_packages_from IS
'The oldest revision whose package works with this one: a package that brings an older one has to be upgraded first.';
COMMENT ON COLUMN dagbump.installation.release IS 'The release of the package that ran the upgrade.';
COMMENT ON COLUMN dagbump.installation.installed_at IS 'When the upgrade last wrote this row.';
COMMENT ON COLUMN dagbump.installation.installed_by IS 'The role that ran it (session_user).';
COMMENT ON COLUMN dagbump.installation.functions IS
'A digest of each function as the upgrade has made it: what dagbump.check() compares with what it finds.';

REVOKE ALL ON TABLE dagbump.installation FROM PUBLIC;
