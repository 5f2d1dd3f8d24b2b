-- Takes: owner.
SELECT
    13 AS place,
    'grants' AS item,
    found.ok,
    coalesce(
        found.findings, 'nobody but the owner may use dagbump; an operator is made by SELECT dagbump.grant_operator(''role'');'
    )
    || CASE
        WHEN found.to_public
            THEN '. Take it from PUBLIC: REVOKE ALL ON SCHEMA dagbump FROM PUBLIC; REVOKE ALL ON ALL TABLES IN SCHEMA dagbump '
            'FROM PUBLIC; REVOKE ALL ON ALL ROUTINES IN SCHEMA dagbump FROM PUBLIC;'
        ELSE ''
    END
    || CASE
        WHEN found.a_role_writes
            THEN '. Nobody but the owner should create or write there: SELECT dagbump.revoke_operator(''role''); takes all, '
            'and dagbump.grant_operator gives what an operator needs.'
        ELSE ''
    END AS detail
FROM (
    SELECT
        coalesce(pg_catalog.bool_and(of_role.grantee <> 0::oid AND NOT of_role.writes), TRUE) AS ok,
        pg_catalog.bool_or(of_role.grantee = 0::oid) AS to_public,
        pg_catalog.bool_or(of_role.grantee <> 0::oid AND of_role.writes) AS a_role_writes,
        pg_catalog.string_agg(of_role.called || ': ' || of_role.rights, '; ' ORDER BY of_role.called) AS findings
    FROM (
        SELECT
            acl.grantee,
            CASE WHEN acl.grantee = 0::oid THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(acl.grantee)::text END AS called,
            pg_catalog.bool_or(acl.privilege_type NOT IN ('USAGE', 'SELECT', 'EXECUTE')) AS writes,
            pg_catalog.concat_ws(
                ', ',
                CASE WHEN operator.oid IS NOT NULL THEN 'operator' END,
                pg_catalog.string_agg(acl.privilege_type || ' on ' || object.name, ', ' ORDER BY object.name, acl.privilege_type)
                FILTER (
                    WHERE operator.oid IS NULL OR acl.privilege_type <> object.privilege OR @include:for_the_owner@
                )
            ) AS rights
        FROM @include:granted_rights@
        LEFT JOIN (
            @include:operators@
        ) AS operator ON operator.oid = acl.grantee
        WHERE acl.grantee <> owner
        GROUP BY acl.grantee, operator.oid
    ) AS of_role
) AS found
