-- dagbump.installation: records which tables the functions were made for, and by which release. One row.
--
-- The command line and the Airflow plugin compare it with what they find. The table has no default and no
-- trigger, and its check is a bare column. So it cannot contain code of another role, and an upgrade can
-- verify that.

CREATE TABLE IF NOT EXISTS dagbump.installation (
    airflow_schema text NOT NULL,
    airflow_shape text NOT NULL,
    revision text NOT NULL,
    works_with_packages_from text NOT NULL,
    release text NOT NULL,
    installed_at timestamptz NOT NULL,
    installed_by text NOT NULL,
    functions jsonb NOT NULL,
    one_row boolean PRIMARY KEY CHECK (one_row)
);

-- Repair a table that exists already. Every upgrade writes its row anew, so no row and no other column has to be kept.
DO $mend_installation$
DECLARE
    altered record;
    other record;
BEGIN
    IF EXISTS (
        @include:altered_installation@
    ) THEN
        TRUNCATE dagbump.installation;
        FOR altered IN
            @include:altered_installation@
        LOOP
            EXECUTE pg_catalog.format('ALTER TABLE dagbump.installation DROP COLUMN IF EXISTS %I', altered.attname);
        END LOOP;
        ALTER TABLE dagbump.installation
            ADD COLUMN IF NOT EXISTS airflow_schema text NOT NULL,
            ADD COLUMN IF NOT EXISTS airflow_shape text NOT NULL,
            ADD COLUMN IF NOT EXISTS revision text NOT NULL,
            ADD COLUMN IF NOT EXISTS works_with_packages_from text NOT NULL,
            ADD COLUMN IF NOT EXISTS release text NOT NULL,
            ADD COLUMN IF NOT EXISTS installed_at timestamptz NOT NULL,
            ADD COLUMN IF NOT EXISTS installed_by text NOT NULL,
            ADD COLUMN IF NOT EXISTS functions jsonb NOT NULL;
    END IF;
    IF NOT @include:installation_has_key@ THEN
        TRUNCATE dagbump.installation;
        FOR other IN
            SELECT con.conname
            FROM pg_catalog.pg_constraint AS con
            WHERE con.conrelid = 'dagbump.installation'::regclass::oid AND con.contype::text = 'p'
        LOOP
            EXECUTE pg_catalog.format('ALTER TABLE dagbump.installation DROP CONSTRAINT %I', other.conname);
        END LOOP;
        ALTER TABLE dagbump.installation DROP COLUMN IF EXISTS one_row;
        ALTER TABLE dagbump.installation ADD COLUMN one_row boolean PRIMARY KEY CHECK (one_row);
    END IF;
END
$mend_installation$;

COMMENT ON TABLE dagbump.installation IS
'One row: which tables dagbump''s functions were made for, and by which release. Each upgrade writes
it. A role that uses the command line or the Airflow plugin needs SELECT on it.';
COMMENT ON COLUMN dagbump.installation.airflow_schema IS 'The schema of Airflow''s tables.';
COMMENT ON COLUMN dagbump.installation.airflow_shape IS 'The key of the shape that Airflow''s tables had at the upgrade.';
COMMENT ON COLUMN dagbump.installation.revision IS 'The Alembic revision, without that of the optional index.';
COMMENT ON COLUMN dagbump.installation.works_with_packages_from IS
'The oldest revision whose package works with this one. A package of an older revision has to be upgraded.';
COMMENT ON COLUMN dagbump.installation.release IS 'The release of the package that ran the upgrade.';
COMMENT ON COLUMN dagbump.installation.installed_at IS 'When the upgrade last wrote this row.';
COMMENT ON COLUMN dagbump.installation.installed_by IS 'The role that ran it (session_user).';
COMMENT ON COLUMN dagbump.installation.functions IS
'A digest of each function as the upgrade made it. dagbump.check() compares it with what it finds.';

COMMENT ON COLUMN dagbump.installation.one_row IS
'Always true, and the primary key. So there can be no second row, and a publication can include the table.';

REVOKE ALL ON TABLE dagbump.installation FROM PUBLIC;
