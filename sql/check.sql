-- dagbump.check: checks everything that the functions rely on, and says what to do.
--
-- A DBA's first call. It reads the catalogs, dagbump.installation and, up to Airflow 3.2, the versions
-- of the DAGs that have running runs. It locks nothing and runs on a hot standby.

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
'Checks everything that dagbump relies on, and says what to do. A DBA''s first call.

  SELECT * FROM dagbump.check();
  SELECT item, detail FROM dagbump.check() WHERE NOT ok;

Answers one row per item, in this order.
  item    server           PostgreSQL 13 to 18; whether it is a hot standby
          installation     release and revision, when they were installed and by whom
          functions        their bodies, settings and security are as the upgrade made them
          history          the table is there and not altered; otherwise nothing is moved
          airflow tables   tables and columns are there, and are as they were at the upgrade
          column types     each column has a type that the functions can use
          plain tables     no partitions, inheritance, views, rules, or policies that hide rows
          keys             keys, indexes and the foreign key that the functions rely on
          optional index   it is valid; or it is not there, which is fine, and what it would bring
          triggers         which triggers an update of task_instance fires
          owner            schema, tables and functions belong to the owner of task_instance
          owner''s rights   the owner may read and write what the functions read and write
          grants           who may use dagbump; nothing is granted to PUBLIC
          version order    Airflow, up to 3.2, takes the same version for the latest as dagbump
          statistics       autovacuum is on, and task_instance has been analyzed
  ok      true: there is nothing to do
  detail  what was found; if it is not ok, what to do

Reads the catalogs, dagbump.installation and, up to Airflow 3.2, the versions of the DAGs that have
running runs. It takes no row lock, writes nothing, and runs on a hot standby.
Somebody may have replaced this function too. The command `dagbump check` first checks that, and it also
works if dagbump is not installed.';

REVOKE ALL ON FUNCTION dagbump.check() FROM PUBLIC;
