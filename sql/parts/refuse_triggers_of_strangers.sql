-- Takes: findings, owner.
-- Raises an error if a bump would fire a trigger of a stranger.
findings := (
    @include:triggers_of_strangers@
);
IF findings IS NOT NULL THEN
    RAISE EXCEPTION 'a trigger on task_instance would run code of another role with the rights of %: %',
        pg_catalog.pg_get_userbyid(owner), findings
        USING ERRCODE = 'DBU02',
        HINT = 'Find out who made it. If it is right, make its function belong to the owner of task_instance, or to a superuser; '
        'otherwise drop the trigger.';
END IF;
