-- Takes: run, dag, latest, serialized.
-- True for an examined run, if it is running. There are two conditions, because the planner can test the first
-- before it looks the version up.
(@include:obstacle_of_run@) IS NULL
AND (@include:obstacle_of_version@) IS NULL
