-- Refuses a schema dagbump that is not ours, and goes on as its owner. Airflow's tables may be missing.
--
-- It runs first in every downgrade, online and in the script of --sql, and reads only catalogs. Errors:
--   DBU03  schema dagbump belongs to another role, or holds something that dagbump did not create
--   DBU04  dagbump serves another Airflow in this database
--   25006  the transaction is read-only
--   42501  the role may not act as the owner of the schema

DO $begin_downgrade$
DECLARE
    schema_owner CONSTANT oid := @include:owner_of_schema@;
    owner CONSTANT oid := coalesce(@include:owner_of_airflow@, schema_owner);
    airflow_schema CONSTANT text := @airflow_schema_literal@;
    served CONSTANT text := @include:served_schema@;
    -- From PostgreSQL 16 on, SET ROLE needs more than membership.
    may_become CONSTANT text := CASE
        WHEN pg_catalog.current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER'
    END;
    findings text;
BEGIN
    IF schema_owner IS NULL THEN
        RETURN;
    END IF;
    @include:refuse_read_only@
    @include:refuse_foreign_objects@
    @include:refuse_another_airflow@
    IF NOT pg_catalog.pg_has_role(owner, may_become) THEN
        RAISE EXCEPTION 'dagbump belongs to %, and the current role, %, may not act as that role',
            pg_catalog.pg_get_userbyid(owner), CURRENT_USER
            USING ERRCODE = 'insufficient_privilege', HINT = @include:how_to_act_as_owner@;
    END IF;
    IF CURRENT_USER <> pg_catalog.pg_get_userbyid(owner) THEN
        EXECUTE pg_catalog.format('SET LOCAL ROLE %I', pg_catalog.pg_get_userbyid(owner));
    END IF;
END
$begin_downgrade$;
