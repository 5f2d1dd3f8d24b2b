-- dagbump.revoke_operator: takes back what a role was granted in schema dagbump, by grant_operator or by hand.
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
    @include:refuse_read_only@
    @include:check_role@
    IF role = pg_catalog.pg_get_userbyid(owner)::text THEN
        RAISE EXCEPTION 'dagbump belongs to %, whose rights are not taken away', role
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'dagbump.bump and the other functions run as the owner, and would fail without its rights.';
    END IF;

    -- PostgreSQL refuses to take a right from a role that has granted it to another one.
    SELECT
        pg_catalog.string_agg(
            pg_catalog.format(
                '%s on %s to %s',
                acl.privilege_type,
                object.name,
                CASE WHEN acl.grantee = 0::oid THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(acl.grantee)::text END
            ),
            ', ' ORDER BY object.name, acl.privilege_type, acl.grantee
        ),
        pg_catalog.string_agg(
            DISTINCT pg_catalog.format(
                'REVOKE ALL ON %s FROM %I CASCADE;', @include:object_to_revoke_on@, revoke_operator.role
            ),
            ' '
        )
    INTO grants, statements
    FROM @include:granted_rights@
    WHERE pg_catalog.pg_get_userbyid(acl.grantor)::text = revoke_operator.role;
    IF grants IS NOT NULL THEN
        RAISE EXCEPTION 'the role % has granted rights to other roles: %', role, grants
            USING ERRCODE = 'dependent_objects_still_exist',
            HINT = 'To take them from those roles too, run this first: ' || statements;
    END IF;

    EXECUTE pg_catalog.format('REVOKE ALL ON ALL ROUTINES IN SCHEMA dagbump FROM %I', role);
    EXECUTE pg_catalog.format('REVOKE ALL ON ALL TABLES IN SCHEMA dagbump FROM %I', role);
    EXECUTE pg_catalog.format('REVOKE ALL ON SCHEMA dagbump FROM %I', role);

    -- Only the role that granted something can take it back.
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
                @include:object_to_revoke_on@,
                revoke_operator.role
            ),
            ' ' ORDER BY object.name, acl.privilege_type
        )
    INTO grants, statements
    FROM @include:granted_rights@
    WHERE pg_catalog.pg_get_userbyid(acl.grantee)::text = revoke_operator.role AND acl.grantee <> 0::oid;
    IF grants IS NOT NULL THEN
        RAISE WARNING 'the role % still has rights that other roles granted: %', role, grants
            USING HINT = 'As a superuser, or a member of these roles: ' || statements;
    END IF;

    SELECT pg_catalog.string_agg(DISTINCT source.name, ', ') INTO sources
    FROM (
        SELECT CASE
            WHEN acl.grantee = 0::oid THEN 'PUBLIC'
            ELSE pg_catalog.pg_get_userbyid(acl.grantee)::text
        END AS name
        FROM @include:granted_rights@
        WHERE CASE
            WHEN acl.grantee = 0::oid THEN TRUE
            ELSE pg_catalog.pg_has_role(revoke_operator.role::name, acl.grantee, 'USAGE')
        END
        UNION ALL
        -- PostgreSQL's own roles, whose rights are in no ACL. They exist from PostgreSQL 14 on.
        SELECT predefined.rolname::text
        FROM pg_catalog.pg_roles AS predefined
        WHERE predefined.rolname::text IN ('pg_read_all_data', 'pg_write_all_data')
        AND pg_catalog.pg_has_role(revoke_operator.role::name, predefined.oid, 'USAGE')
    ) AS source
    WHERE source.name <> revoke_operator.role;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles AS found WHERE found.rolname::text = revoke_operator.role AND found.rolsuper) THEN
        RAISE NOTICE 'the role % is a superuser, and may do everything', role;
    ELSIF sources IS NOT NULL THEN
        RAISE NOTICE 'the role % still has the rights of these, as a member: %', role, sources;
    END IF;
END
$revoke_operator$;

COMMENT ON FUNCTION dagbump.revoke_operator(text) IS
'Takes from a role everything that it was granted in schema dagbump.

  SELECT dagbump.revoke_operator(''airflow_operator'');

Argument
  role   the exact name of a role, with its capitals and without quotes

For the owner of Airflow''s tables, a member of it, or a superuser. It takes back what
dagbump.grant_operator granted, and what the owner granted by hand in that schema.
The role keeps the rights that another role granted to it. A WARNING lists them, who granted them, and
the statements that take them back. The role also keeps the rights that it has as a superuser or as a
member of another role. A NOTICE says so. A second call changes nothing.
DROP ROLE works only after this has been done in each database where the role is an operator.
Errors: 22023 if role is NULL, PUBLIC or the owner; 25006 on a hot standby; 42704 if there is no such role;
42501 if the caller may not revoke; 2BP01 if the role has granted rights to other roles. The error names
them, and the statements to run first.';

REVOKE ALL ON FUNCTION dagbump.revoke_operator(text) FROM PUBLIC;
