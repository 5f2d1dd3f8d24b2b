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
    recorded text;
    recorded_shape text;
    recorded_functions jsonb;
    out_of_order text;
    order_is_known boolean := TRUE;
BEGIN
    -- 1. Read the tables that can be missing. The query below could not be planned without them.
    @include:read_installation@
    BEGIN
        @include:require_tables@
        out_of_order := (
            @include:dags_out_of_order@
        );
    EXCEPTION
        WHEN
            SQLSTATE 'DBU02' OR undefined_table OR undefined_column OR undefined_function OR insufficient_privilege
            OR invalid_schema_name -- up to PostgreSQL 15, for a table in a schema that is gone
        THEN
            order_is_known := FALSE;
    END;

    -- 2. Check each item.
    RETURN QUERY
    SELECT checked.item, checked.ok, checked.detail
    FROM (
        @include:checked_server@
        UNION ALL
        @include:checked_installation@
        UNION ALL
        @include:checked_functions@
        UNION ALL
        @include:checked_history@
        UNION ALL
        @include:checked_columns@
        UNION ALL
        @include:checked_column_types@
        UNION ALL
        @include:checked_plain_tables@
        UNION ALL
        @include:checked_keys@
        UNION ALL
        @include:checked_index@
        UNION ALL
        @include:checked_triggers@
        UNION ALL
        @include:checked_owner@
        UNION ALL
        @include:checked_owner_rights@
        UNION ALL
        @include:checked_grants@
        UNION ALL
        @include:checked_version_order@
        UNION ALL
        @include:checked_statistics@
    ) AS checked
    ORDER BY checked.place;
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
          optional index   valid, or not there (dagbump works without it); what it would save
          triggers         which triggers an update of task_instance fires
          owner            schema, tables and functions belong to the owner of task_instance, and Airflow''s
                   other tables to it or to a superuser
          owner''s rights   the owner has the rights that the functions need
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
