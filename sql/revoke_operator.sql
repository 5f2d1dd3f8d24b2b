-- dagbump.revoke_operator: takes from a role what it was granted in schema dagbump, by dagbump.grant_operator or by hand.
--
-- For the owner of Airflow's tables. SECURITY INVOKER, as grant_operator.

CREATE OR REPLACE FUNCTION dagbump.revoke_operator(role text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = @airflow_schema@, pg_temp
AS $revoke_operator$
#variable_conflict use_column
DECLARE
    function_name CONSTANT text := 'revoke_operator';
    owner CONSTANT oid := @include:owner_of_schema@;
    grants text;
    statements text;
    sources text;
BEGIN
    @include:check_role@
    IF role = pg_catalog.pg_get_userbyid(owner)::text THEN
        RAISE EXCEPTION 'dagbump belongs to %, whose rights are not taken away', role
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'What works as the owner, dagbump.bump for one, would end with an error.';
    END IF;

    EXECUTE pg_catalog.format('REVOKE ALL ON ALL ROUTINES IN SCHEMA dagbump FROM %I', role);
    EXECUTE pg_catalog.format('REVOKE ALL ON ALL TABLES IN SCHEMA dagbump FROM %I', role);
    EXECUTE pg_catalog.format('REVOKE ALL ON SCHEMA dagbump FROM %I', role);

    -- PostgreSQL lets only the role that granted something take it back.
    SELECT
        pg_catalog.string_agg(
            pg_catalog.format('%s on %s from %s', acl.privilege_type, object.name, pg_catalog.pg_get_userbyid(acl.grantor)),
            ', ' ORDER BY object.name, acl.privilege_type
        ),
        pg_catalog.string_agg(
            pg_catalog.format(
                'SET ROLE %I; REVOKE %s ON %s FROM %I CASCADE;',
                pg_catalog.pg_get_userbyid(acl.grantor),
                acl.privilege_type,
                CASE object.object_type
                    WHEN 'SCHEMA' THEN 'SCHEMA dagbump'
                    WHEN 'TABLE' THEN 'TABLE ' || object.oid::regclass::text
                    ELSE 'ROUTINE ' || object.oid::regprocedure::text
                END,
                revoke_operator.role
            ),
            ' ' ORDER BY object.name, acl.privilege_type
        )
    INTO grants, statements
    FROM (
        @include:objects_of_schema@
    ) AS object
    CROSS JOIN LATERAL pg_catalog.aclexplode(object.acl) AS acl
    WHERE pg_catalog.pg_get_userbyid(acl.grantee)::text = revoke_operator.role AND acl.grantee <> 0::oid;
    IF grants IS NOT NULL THEN
        RAISE WARNING 'the role % still has what others granted: %', role, grants
            USING HINT = 'As a superuser, or a member of these roles: ' || statements;
    END IF;

    SELECT pg_catalog.string_agg(DISTINCT source.name, ', ') INTO sources
    FROM (
        SELECT CASE
            WHEN acl.grantee = 0::oid THEN 'PUBLIC'
            ELSE pg_catalog.pg_get_userbyid(acl.grantee)::text
        END AS name
        FROM (
            @include:objects_of_schema@
        ) AS object
        CROSS JOIN LATERAL pg_catalog.aclexplode(object.acl) AS acl
        WHERE CASE
            WHEN acl.grantee = 0::oid THEN TRUE
            ELSE pg_catalog.pg_has_role(revoke_operator.role::name, acl.grantee, 'USAGE')
        END
    ) AS source
    WHERE source.name <> revoke_operator.role;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles AS found WHERE found.rolname::text = revoke_operator.role AND found.rolsuper) THEN
        RAISE NOTICE 'the role % is a superuser, and may do everything', role;
    ELSIF sources IS NOT NULL THEN
        RAISE NOTICE 'the role % still has what these have, of which it is a member: %', role, sources;
    END IF;
END
$revoke_operator$;

COMMENT ON FUNCTION dagbump.revoke_operator(text) IS
'Takes from a role all that it was granted in schema dagbump.

  SELECT dagbump.revoke_operator(''airflow_operator'');

Argument
  role   the name of a role, to the letter: capitals count, and it needs no quotes

For the owner of Airflow''s tables, a member of it, or a superuser. Takes back what dagbump.grant_operator
gave, and what was granted by hand in that schema. What another role has granted it, a role keeps: a WARNING
says what it is, from whom, and how that is taken back. What it has as a member of another role, or as a
superuser, it keeps too: a NOTICE says from which. Again: changes nothing.
A role can be dropped only after this, in each database where it is an operator.
Errors: 22023 for NULL, PUBLIC and the owner; 42704 for a role that there is not; 42501 for a caller who
may not; 2BP01 where the role has granted it on.';

REVOKE ALL ON FUNCTION dagbump.revoke_operator(text) FROM PUBLIC;
