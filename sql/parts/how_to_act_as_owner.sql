-- Takes: owner.
-- The advice for a role that may not act as the owner of Airflow's tables. It never advises a role to become a
-- superuser.
pg_catalog.format('Connect as %I', pg_catalog.pg_get_userbyid(owner)) || CASE
    WHEN EXISTS (SELECT FROM pg_catalog.pg_roles AS role WHERE role.oid = owner AND role.rolsuper) THEN '.'
    ELSE pg_catalog.format(
        ', or have that role, or a superuser, run: GRANT %I TO %I;', pg_catalog.pg_get_userbyid(owner), CURRENT_USER
    )
END
