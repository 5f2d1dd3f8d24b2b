-- dagbump.check: is everything as the functions need it, and if not, what is to be done?
--
-- For a DBA, first of all. Reads only: the catalogs, dagbump.installation, and up to Airflow 3.2 the versions of the DAGs that
-- have running runs. Locks nothing, and runs on a hot standby.

CREATE OR REPLACE FUNCTION dagbump.check() RETURNS TABLE (
    item text,
    ok boolean,
    detail text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = @airflow_schema@, pg_temp
AS $check$
#variable_conflict use_column
DECLARE
    required CONSTANT jsonb := @include:required_columns@;
    airflow_schema CONSTANT text := @airflow_schema_literal@;
    tis CONSTANT oid := pg_catalog.to_regclass(@task_instance_literal@)::oid;
    airflow_owner CONSTANT oid := @include:owner_of_airflow@;
    owner CONSTANT oid := @include:owner_of_schema@;
    recorded_shape text;
    recorded_functions jsonb;
    missing text;
    findings text;
    advice text;
    to_public boolean;
BEGIN
    @include:checked_server@

    @include:checked_installation@

    @include:checked_functions@

    @include:checked_history@

    @include:checked_tables@

    @include:checked_keys@

    @include:checked_index@

    @include:checked_triggers@

    @include:checked_owner@

    @include:checked_grants@

    @include:checked_version_order@

    @include:checked_statistics@
END
$check$;

COMMENT ON FUNCTION dagbump.check() IS
'Checks that everything is as dagbump needs it, and says what to do where it is not: a DBA''s first call.

  SELECT * FROM dagbump.check();
  SELECT item, detail FROM dagbump.check() WHERE NOT ok;

Answers one row per item, in this order.
  item    server           PostgreSQL 13 to 18; whether it is a hot standby
          installation     release and revision, when and by whom
          functions        their bodies, settings and security are as the upgrade has made them
          history          the table is there, and not altered: else nothing is moved
          airflow tables   tables and columns are there, and as they were at the upgrade
          column types     each column is of a type that the functions take
          plain tables     no partitions, inheritance, views, rules, nor policies that hide rows
          keys             keys, indexes and the foreign key that the functions rely on
          optional index   valid; or not there, which is fine, and what it would bring
          triggers         what an update of task_instance sets off
          owner            schema, tables and functions belong to the owner of task_instance
          owner''s rights   the owner may read and write what the functions do as the owner
          grants           who may use dagbump; nothing is granted to PUBLIC
          version order    Airflow, up to 3.2, takes the same version for the latest as dagbump
          statistics       autovacuum is on, and task_instance has been analyzed
  ok      whether there is nothing to do
  detail  what was found; where it is not ok, what to do

Reads the catalogs and dagbump.installation, and up to Airflow 3.2 the versions of the DAGs that have running
runs: no row lock, nothing written; runs on a hot standby.
What it says is as good as its own body: `dagbump check`, on the command line, looks first whether that
can be believed, and answers where dagbump is not installed, too.';

REVOKE ALL ON FUNCTION dagbump.check() FROM PUBLIC;
