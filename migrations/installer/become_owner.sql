-- Goes on as the owner of Airflow's tables, and makes the schema for her where it is missing: all that follows is hers,
-- whoever runs the upgrade, and none of it can do more than she can.

DO $become_owner$
DECLARE
    owner CONSTANT name := pg_catalog.pg_get_userbyid((
        SELECT class.relowner
        FROM pg_catalog.pg_class AS class
        WHERE class.oid = pg_catalog.to_regclass(@task_instance_literal@)::oid
    ));
BEGIN
    IF pg_catalog.to_regnamespace('dagbump') IS NULL THEN
        EXECUTE pg_catalog.format('CREATE SCHEMA dagbump AUTHORIZATION %I', owner);
    END IF;
    IF CURRENT_USER <> owner THEN
        EXECUTE pg_catalog.format('SET LOCAL ROLE %I', owner);
    END IF;
END
$become_owner$;
