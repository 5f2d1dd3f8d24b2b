-- dagbump.grant_operator: makes a role an operator, which may use dagbump without any right on Airflow's tables.
--
-- For the owner of Airflow's tables. It is SECURITY INVOKER, so a role that was given
-- EXECUTE on it by mistake cannot grant anything.

CREATE OR REPLACE FUNCTION dagbump.grant_operator(role text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = @airflow_schema@, pg_temp
AS $grant_operator$
#variable_conflict use_column
DECLARE
    function_name CONSTANT text := 'grant_operator';
    owner CONSTANT oid := @include:owner_of_schema@;
    object record;
BEGIN
    @include:refuse_read_only@
    @include:check_role@
    IF role = pg_catalog.pg_get_userbyid(owner)::text THEN
        RAISE NOTICE 'dagbump belongs to %: there is nothing to grant', role;
        RETURN;
    END IF;

    FOR object IN
        @include:objects_for_operators@
    LOOP
        CASE object.object_type
            WHEN 'SCHEMA' THEN
                EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA dagbump TO %I', grant_operator.role);
            WHEN 'TABLE' THEN
                EXECUTE pg_catalog.format('GRANT SELECT ON TABLE %s TO %I', object.oid::regclass, grant_operator.role);
            ELSE
                EXECUTE pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO %I', object.oid::regprocedure, grant_operator.role);
        END CASE;
    END LOOP;
END
$grant_operator$;

COMMENT ON FUNCTION dagbump.grant_operator(text) IS
'Makes a role an operator: it may preview, bump, repair and check, but not touch Airflow''s tables.

  SELECT dagbump.grant_operator(''airflow_operator'');

Argument
  role   the exact name of a role, with its capitals and without quotes. It may be a group: members that
         inherit are operators too.

For the owner of Airflow''s tables, a member of it, or a superuser. It runs as its caller, so a superuser
should SET ROLE to the owner first.
It grants USAGE on schema dagbump, EXECUTE on its functions and procedures, and SELECT on its tables. It
does not grant rights on the objects that are for the owner alone: grant_operator, revoke_operator,
prune_history, alembic_version, and the functions that only other functions call. It gives nothing to
PUBLIC and no grant option. A second call changes nothing. An upgrade that adds functions grants them to
the existing operators.
Errors: 22023 if role is NULL or PUBLIC; 25006 on a hot standby; 42704 if there is no such role; 42501 if
the caller may not grant.';

REVOKE ALL ON FUNCTION dagbump.grant_operator(text) FROM PUBLIC;
