-- Takes: owner.
-- The triggers on task_instance whose function belongs to a role that is not trusted; NULL if there are none. Trusted are
-- the given owner and superusers. A role with the right TRIGGER on the table can create one, and a bump would run its
-- function as the owner.
SELECT pg_catalog.string_agg(
    pg_catalog.format('%I calls %s (of %s)', trigger.tgname, trigger.tgfoid::regproc, role.rolname), ', ' ORDER BY trigger.tgname::text
)
FROM pg_catalog.pg_trigger AS trigger
JOIN pg_catalog.pg_proc AS function ON function.oid = trigger.tgfoid
JOIN pg_catalog.pg_roles AS role ON role.oid = function.proowner
WHERE trigger.tgrelid = pg_catalog.to_regclass(@task_instance_literal@)::oid
AND NOT trigger.tgisinternal
AND trigger.tgenabled::text <> 'D'
AND NOT (role.rolsuper OR role.oid = owner)
