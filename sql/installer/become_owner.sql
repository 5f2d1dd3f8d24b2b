-- Creates the schema for the owner of Airflow's tables if it is missing, and goes on as that role. So everything
-- that follows belongs to the owner, whichever role runs the upgrade, and can do no more than the owner may do.

DO $become_owner$
DECLARE
    owner CONSTANT name := pg_catalog.pg_get_userbyid(@include:owner_of_airflow@);
BEGIN
    IF pg_catalog.to_regnamespace('dagbump') IS NULL THEN
        EXECUTE pg_catalog.format('CREATE SCHEMA dagbump AUTHORIZATION %I', owner);
    END IF;
    IF CURRENT_USER <> owner THEN
        EXECUTE pg_catalog.format('SET LOCAL ROLE %I', owner);
    END IF;
END
$become_owner$;
